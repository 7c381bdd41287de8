"""The command line: `otreg demo | miniature | train | evaluate | transcribe | align | report`.

A user's mistake ends with exit code 2 and one line on stderr, anything else with 1.
"""

from otreg.cli import demo, miniature, train, trained  # the commands register themselves
from otreg.cli.application import main

__all__ = ["demo", "main", "miniature", "train", "trained"]
