"""The passes of a step: speech, its text twin, and both by the weights at the stage's start."""

from otreg.forwards.passes import run_forwards
from otreg.forwards.reference import Reference
from otreg.forwards.twin import Twin, twin_of

__all__ = ["Reference", "Twin", "run_forwards", "twin_of"]
