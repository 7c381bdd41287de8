"""Alignment objectives: each a callable from a SpeechTextPair to an AlignmentOutput."""

from otreg.alignment.base import AlignmentOutput
from otreg.alignment.compose import Objective, WeightedSum
from otreg.alignment.ctc import CTC
from otreg.alignment.otreg import OTReg
from otreg.alignment.registry import OBJECTIVES, build_objective
from otreg.alignment.targets import Targets, unique_targets

__all__ = [
    "CTC",
    "OBJECTIVES",
    "AlignmentOutput",
    "OTReg",
    "Objective",
    "Targets",
    "WeightedSum",
    "build_objective",
    "unique_targets",
]
