"""Finding things by name, and offering the nearest known name in an error."""

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any


def nearest(name: str, known: Iterable[str]) -> str:
    """Say `did you mean 'x'?`, or list the known names when none is near."""
    names = sorted(str(item) for item in known)
    matches = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if matches:
        return f"did you mean {matches[0]!r}?"
    return "known: " + ", ".join(names)


def find_named(what: str, name: str, known: Mapping[str, Any]) -> Any:
    """What a table holds under a name, or what `package.module:callable` names.

    Args:
        what: what is looked for, such as "objective", for errors.
        name: a key of the table, or `package.module:callable`.
        known: the table.

    Raises:
        ValueError: there is none, with the nearest known name, or it cannot be imported.

    Example:
        >>> find_named("objective", "math:floor", {})(2.5)
        2
    """
    if name in known:
        return known[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(
            f"unknown {what} {name!r}; {nearest(name, known)} "
            "(package.module:callable names one of your own)"
        )
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{what} {name!r} cannot be imported ({error}); expected package.module:callable with "
            "the package installed"
        ) from error
