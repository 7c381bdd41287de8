"""The ground cost between two sets of vectors."""

# ruff: noqa: F722
import torch
from torch import Tensor

from otreg.shapes import Float

_NORM_EPS = 1e-6


def inverse_norm(x: Float[Tensor, "... dim"], dtype: torch.dtype) -> Float[Tensor, "..."]:
    """1 / sqrt(|x|^2 + 1e-6) of each row, in dtype, without a copy of x in it."""
    return (torch.linalg.vector_norm(x, dim=-1, dtype=dtype).square() + _NORM_EPS).rsqrt()


def unit_vectors(
    x: Float[Tensor, "... dim"], dtype: torch.dtype | None = None
) -> Float[Tensor, "... dim"]:
    """Scale vectors to unit norm, x / sqrt(|x|^2 + 1e-6).

    Args:
        x: (…, dim) vectors, any floating dtype.
        dtype: of the result; None = float32, float64 where x is.

    Returns:
        (…, dim). The gradient at a zero vector is finite, at most 1e3.
    """
    if dtype is None:
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.to(dtype) * inverse_norm(x, dtype).unsqueeze(-1)


def cosine_similarity(
    x: Float[Tensor, "... n dim"], y: Float[Tensor, "... m dim"]
) -> Float[Tensor, "... n m"]:
    """All pairs of cosines, S_ij = x_i . y_j / sqrt((|x_i|^2 + 1e-6)(|y_j|^2 + 1e-6)).

    Args:
        x: (…, n, dim) vectors, any floating dtype.
        y: (…, m, dim) vectors, any floating dtype; leading axes broadcast.

    Returns:
        (…, n, m) in float32 whatever the autocast; float64 where either input is.

    Source: the 1e-6 under the root bounds the gradient of a zero vector by 1e3, where
        ``torch.nn.functional.normalize`` divides by its eps of 1e-12.
    """
    with torch.autocast(device_type=x.device.type, enabled=False):
        dtype = torch.float64 if torch.float64 in (x.dtype, y.dtype) else torch.float32
        return unit_vectors(x, dtype) @ unit_vectors(y, dtype).transpose(-1, -2)


def cosine_cost(
    x: Float[Tensor, "... n dim"], y: Float[Tensor, "... m dim"]
) -> Float[Tensor, "... n m"]:
    """The cosine cost C_ij = 1 - cos(x_i, y_j), in [0, 2].

    Args:
        x: (…, n, dim) vectors, any floating dtype.
        y: (…, m, dim) vectors, any floating dtype.

    Returns:
        (…, n, m) in float32 whatever the autocast; float64 where either input is.

    Source: OTReg (arXiv 2508.08131), the cost of its transport problem.
    """
    return 1.0 - cosine_similarity(x, y)
