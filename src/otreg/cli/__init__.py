"""The command line: `otreg demo | miniature | prepare | train | serve`, and what is done with a trained
model: `evaluate | transcribe | align | report | export`.

A user's mistake ends with exit code 2 and one line on stderr, anything else with 1.
"""

from otreg.cli import (  # the commands register themselves
    demo,
    export,
    miniature,
    prepare,
    serve,
    train,
    trained_model,
    transcribe,
)
from otreg.cli.application import main

__all__ = [
    "demo",
    "export",
    "main",
    "miniature",
    "prepare",
    "serve",
    "train",
    "trained_model",
    "transcribe",
]
