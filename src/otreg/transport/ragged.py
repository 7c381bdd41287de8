"""Batches whose problems differ in size, where the padding is worth leaving out."""

import torch
from torch import Tensor

_MAX_FILL = 0.8  # with a larger share of real cells than this, nothing is to be gained


def ragged_sizes(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor] | None:
    """How many rows and columns each problem needs; None where (nearly) all cells are real.

    Always None elsewhere than on the CPU, where a launch costs more than padding.

    Args:
        a: (batch, n) row masses; a zero mass is padding.
        b: (batch, m) column masses.

    Returns:
        (batch,) each: one past the last positive mass, at least 1.
    """
    if a.device.type != "cpu":
        return None
    rows, columns = _num_needed(a), _num_needed(b)
    if float((rows * columns).sum()) > _MAX_FILL * a.numel() * b.shape[1]:
        return None
    return rows, columns


def _num_needed(mass: Tensor) -> Tensor:
    place = torch.arange(1, mass.shape[1] + 1)
    return torch.where(mass > 0, place, 0).amax(1).clamp(min=1)
