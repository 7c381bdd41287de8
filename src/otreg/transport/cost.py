"""The ground cost between two sets of vectors."""

# ruff: noqa: F722
import torch
from torch import Tensor

from otreg._shapes import Float

_NORM_EPS = 1e-6


def _unit(x: Tensor) -> Tensor:
    """Scale rows to unit norm; smooth at zero, unlike a division by ``max(norm, tiny)``."""
    x = x if x.dtype == torch.float64 else x.float()
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + _NORM_EPS)


def cosine_similarity(
    x: Float[Tensor, "... n dim"], y: Float[Tensor, "... m dim"]
) -> Float[Tensor, "... n m"]:
    """All pairs of cosines, S_ij = x_i . y_j / sqrt((|x_i|^2 + 1e-6)(|y_j|^2 + 1e-6)).

    Args:
        x: (…, n, dim) vectors, any floating dtype.
        y: (…, m, dim) vectors; leading axes broadcast.

    Returns:
        (…, n, m) in float32 whatever the autocast (float64 stays float64).

    Source: the 1e-6 under the root bounds the gradient of a zero vector by 1e3, where
        ``torch.nn.functional.normalize`` divides by its eps of 1e-12.
    """
    with torch.autocast(device_type=x.device.type, enabled=False):
        return _unit(x) @ _unit(y).transpose(-1, -2)


def cosine_cost(
    x: Float[Tensor, "... n dim"], y: Float[Tensor, "... m dim"]
) -> Float[Tensor, "... n m"]:
    """The cosine cost C_ij = 1 - cos(x_i, y_j), in [0, 2].

    Args:
        x: (…, n, dim) vectors, any floating dtype.
        y: (…, m, dim) vectors.

    Returns:
        (…, n, m) in float32 whatever the autocast (float64 stays float64).

    Source: OTReg (arXiv 2508.08131), the cost of its transport problem.
    """
    return 1.0 - cosine_similarity(x, y)
