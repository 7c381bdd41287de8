"""Whether the options in an experiment's file fit what is called with them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from inspect import Parameter
from typing import Any

from otreg.names import nearest
from otreg.training.yaml_config import ConfigError, check_key

__all__ = ["check_options"]


def check_options(
    function: Callable[..., Any],
    options: Mapping[str, Any],
    where: str,
    *,
    num_positional: int,
    given: Collection[str] = (),
    places: Mapping[str, str] | None = None,
) -> None:
    """Refuse options that a callable does not take, and the lack of one that it needs.

    Args:
        function: called as `function(*positional, **given, **options)`.
        options: those of the file.
        where: their place in the file.
        num_positional: how many arguments come before them.
        given: keyword arguments that the experiment gives itself; no option may have their names.
        places: where in the file an argument is asked for that is no option, by its name.

    Raises:
        ConfigError: naming the key.
    """
    places = places or {}
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:  # written in C: only the call will tell
        return
    by_place = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    taken = {p.name: p for p in by_place[num_positional:] if p.kind is not p.POSITIONAL_ONLY}
    taken |= {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    free = [name for name in taken if name not in given and name not in places]
    for name in options:
        if name in given or (not takes_any and name not in taken):
            check_key(str(name), free, where)
    for name in given:
        if not takes_any and name not in taken:
            raise ConfigError(
                f"{places.get(name, where)}: what is called takes no {name!r}, {nearest(name, taken)}"
            )
    for name, parameter in taken.items():
        if parameter.default is Parameter.empty and name not in options and name not in given:
            path = places.get(name, f"{where}.{name}")
            raise ConfigError(f"missing key {path!r}: give it a value")
