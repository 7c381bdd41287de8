"""Checks of an objective's options, made when it is built."""

import math
from collections.abc import Sequence


def check_positive(name: str, value: float) -> None:
    """Refuse what is not a finite number > 0.

    Raises:
        ValueError: naming the option.
    """
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be > 0 and finite, got {value}")


def check_at_least_zero(name: str, value: float) -> None:
    """Refuse what is not a finite number >= 0.

    Raises:
        ValueError: naming the option.
    """
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be >= 0 and finite, got {value}; 0 turns it off")


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse what is not among the choices.

    Raises:
        ValueError: naming option and choices.
    """
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
