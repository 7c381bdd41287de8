"""Offering the nearest known name in an error."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """Say `did you mean 'x'?`, or list the known names when none is near."""
    names = sorted(str(item) for item in known)
    matches = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if matches:
        return f"did you mean {matches[0]!r}?"
    return "known: " + ", ".join(names)
