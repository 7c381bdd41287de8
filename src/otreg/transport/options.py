"""The options of a transport problem and their check, without tensors."""

import math
from numbers import Integral, Real

METHODS = ("auto", "reference", "accelerated", "compiled", "triton", "newton")
GRADIENT_MODES = ("envelope", "unrolled", "implicit")
UNROLLED_METHODS = ("auto", "reference")  # those that autograd can look through


def check_options(
    *,
    epsilon: float,
    tol: float = 1e-3,
    max_iter: int = 1000,
    rho_a: float | None = None,
    rho_b: float | None = None,
    gradient: str = "envelope",
    method: str = "auto",
) -> None:
    """Refuse options of `sinkhorn` and `cosine_transport` that are out of range or in conflict.

    It takes no tensors and is cheap, so an objective can call it in its constructor. The arguments
    are those of `sinkhorn`.

    Raises:
        ValueError: on a number that is out of range, infinite or NaN; on an unknown gradient or
            method; on a method that cannot give the gradient.
    """
    if not (_is_finite(epsilon) and epsilon > 0):
        raise ValueError(f"epsilon must be a finite number > 0, got {epsilon!r}; try 0.05")
    if not (_is_finite(tol) and tol > 0):
        raise ValueError(f"tol must be a finite number > 0, got {tol!r}; try 1e-3")
    if not (isinstance(max_iter, Integral) and max_iter >= 1):
        raise ValueError(f"max_iter must be a whole number >= 1, got {max_iter!r}; try 1000")
    for name, rho in (("rho_a", rho_a), ("rho_b", rho_b)):
        if rho is not None and not (_is_finite(rho) and rho >= 0):
            raise ValueError(
                f"{name} must be a finite number >= 0, got {rho!r}; pass None for a balanced side"
            )
    if gradient not in GRADIENT_MODES:
        raise ValueError(f"gradient must be one of {', '.join(GRADIENT_MODES)}, got {gradient!r}")
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if gradient == "unrolled" and method not in UNROLLED_METHODS:
        raise ValueError(
            f"method {method!r} has no unrolled gradient; pass one of "
            f"{', '.join(map(repr, UNROLLED_METHODS))}, or gradient='implicit'"
        )


def _is_finite(value: object) -> bool:
    """Whether a value is a number, and neither infinite nor NaN."""
    return isinstance(value, Real) and math.isfinite(value)
