"""OTReg in other people's models: one port that reads any Hugging Face speech language model."""

from otreg.integrations.attach import attach
from otreg.integrations.collator import TranscriptionCollator
from otreg.integrations.families import Family, UnsupportedModelError, family_of
from otreg.integrations.handle import Handle
from otreg.integrations.loading import load
from otreg.integrations.own_loop import pair_from_labels
from otreg.integrations.port import ForeignPort
from otreg.integrations.trainer import AttachedCallback, AttachedTrainer

__all__ = [
    "AttachedCallback",
    "AttachedTrainer",
    "Family",
    "ForeignPort",
    "Handle",
    "TranscriptionCollator",
    "UnsupportedModelError",
    "attach",
    "family_of",
    "load",
    "pair_from_labels",
]
