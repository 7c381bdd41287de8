"""What `sinkhorn` and `cosine_transport` accept: options, shapes and masses."""

import math
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

METHODS = ("auto", "reference", "accelerated", "compiled", "triton", "newton")
GRADIENT_MODES = ("envelope", "unrolled", "implicit")
UNROLLED_METHODS = ("auto", "accelerated")  # those that autograd can look through
_MASS_TOLERANCE = 1e-4  # how far the totals of a balanced problem may be apart, as a share


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
    if not (isinstance(max_iter, int | Integral) and max_iter >= 1):
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


def _is_finite(value: Any) -> bool:
    """Whether a value is a number, and neither infinite nor NaN."""
    try:
        return math.isfinite(value)
    except TypeError:
        return False


def check_problem(cost: Tensor, a: Tensor, b: Tensor, init: Tensor | None) -> None:
    """Refuse a cost that is not (batch, n, m), and masses or a start that do not fit it.

    Raises:
        ValueError: with the shape that was expected.
    """
    if cost.ndim != 3:
        raise ValueError(
            f"cost must be (batch, n, m), got {tuple(cost.shape)}; add a batch axis with "
            "unsqueeze(0)"
        )
    batch, n, m = cost.shape
    _check_shape("a", a, (batch, n), cost=cost)
    _check_shape("b", b, (batch, m), cost=cost)
    if init is not None:
        _check_shape("init", init, (batch, m), cost=cost)


def check_vectors(
    x: Tensor, y: Tensor, a: Tensor, b: Tensor, prior: Tensor | None, init: Tensor | None
) -> None:
    """Refuse vectors that are not (batch, n, dim) and (batch, m, dim), and what does not fit them.

    Raises:
        ValueError: with the shape that was expected.
    """
    for name, vectors, axes in (("x", x, "n"), ("y", y, "m")):
        if vectors.ndim != 3:
            raise ValueError(
                f"{name} must be (batch, {axes}, dim), got {tuple(vectors.shape)}; add a batch axis "
                "with unsqueeze(0)"
            )
        if not vectors.is_floating_point():
            raise ValueError(f"{name} must hold floating-point numbers, got {vectors.dtype}")
    (batch, n, dim), m = x.shape, y.shape[1]
    _check_shape("y", y, (batch, m, dim), x=x)
    _check_shape("a", a, (batch, n), x=x)
    _check_shape("b", b, (batch, m), x=x, y=y)
    if prior is not None:
        _check_shape("prior", prior, (batch, n, m), x=x, y=y)
    if init is not None:
        _check_shape("init", init, (batch, m), x=x, y=y)


def _check_shape(name: str, value: Tensor, expected: tuple[int, ...], **beside: Tensor) -> None:
    if value.shape != expected:
        others = " and ".join(f"{other} {tuple(x.shape)}" for other, x in beside.items())
        raise ValueError(f"{name} must be {expected} to match {others}, got {tuple(value.shape)}")


def check_masses(a: Tensor, b: Tensor, totals: tuple[Tensor, Tensor], balanced: bool) -> None:
    """Refuse masses that are negative or not finite, and balanced ones whose totals differ.

    Args:
        a: (batch, n) row masses.
        b: (batch, m) column masses.
        totals: (batch,) each, their sums.
        balanced: whether both sides are.

    Raises:
        ValueError: naming the side, or the problem.
    """
    negative = a.clamp(max=0).sum(1), b.clamp(max=0).sum(1)
    table = torch.stack([*totals, *negative]).tolist()  # one look, for a GPU is waited for
    for name, sums, below in zip("ab", table[:2], table[2:], strict=True):
        if not all(math.isfinite(total) for total in sums) or any(below):
            raise ValueError(f"{name} must hold finite masses >= 0 (0 = padding); got others")
    if not balanced:
        return
    for number, (total_a, total_b) in enumerate(zip(*table[:2], strict=True)):
        if not math.isclose(total_a, total_b, rel_tol=_MASS_TOLERANCE, abs_tol=1e-12):
            raise ValueError(
                f"balanced transport needs equal masses, got {total_a:.6g} in a and "
                f"{total_b:.6g} in b for problem {number}; normalise them or relax a "
                "side with rho_a or rho_b"
            )
