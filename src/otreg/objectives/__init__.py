"""Alignment objectives: each a callable from a SpeechTextPair to an AlignmentOutput."""

from otreg.objectives.base import AlignmentOutput
from otreg.objectives.compose import Objective, WeightedSum
from otreg.objectives.ctc import CTC
from otreg.objectives.otreg import OTReg
from otreg.objectives.registry import OBJECTIVES, build_objective
from otreg.objectives.targets import Targets, unique_targets

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
