"""The passes of a step: speech, its text twin, and both by the weights at the stage's start."""

from otreg.forwards.passes import run_forwards
from otreg.forwards.port import OwnPort, Port, port_of
from otreg.forwards.reference import Reference
from otreg.forwards.step import draw_seed, transcript_ids
from otreg.forwards.twin import Twin, twin_of

__all__ = [
    "OwnPort",
    "Port",
    "Reference",
    "Twin",
    "draw_seed",
    "port_of",
    "run_forwards",
    "transcript_ids",
    "twin_of",
]
