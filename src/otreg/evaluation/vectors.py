"""Directions of vectors."""

from torch import Tensor


def unit(x: Tensor) -> Tensor:
    """x / ‖x‖ along the last axis, in float32 at least; a zero vector stays zero.

    Measures divide by the norm itself. `otreg.transport.cost` adds 1e-6 under the root, which a
    gradient needs and which would make the cosine of a vector with itself less than 1.
    """
    x = x if x.dtype.itemsize > 4 else x.float()
    return x / x.norm(dim=-1, keepdim=True).clamp_min(1e-12)
