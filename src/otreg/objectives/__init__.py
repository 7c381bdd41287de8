"""Objectives: callables on a `View` of a step, or on a `SpeechTextPair`, lifted by `OnPair`."""

from otreg.objectives.base import (
    AlignmentOutput,
    Objective,
    OnPair,
    Term,
    View,
    Vocabulary,
    lifted,
    transcribed_clips,
)
from otreg.objectives.cross_entropy import CrossEntropy
from otreg.objectives.ctc import CTC
from otreg.objectives.distillation import Distillation
from otreg.objectives.otreg import OTReg
from otreg.objectives.registry import OBJECTIVES, build_objective
from otreg.objectives.targets import Targets, unique_targets

__all__ = [
    "CTC",
    "OBJECTIVES",
    "AlignmentOutput",
    "CrossEntropy",
    "Distillation",
    "OTReg",
    "Objective",
    "OnPair",
    "Targets",
    "Term",
    "View",
    "Vocabulary",
    "build_objective",
    "lifted",
    "transcribed_clips",
    "unique_targets",
]
