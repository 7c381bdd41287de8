"""What adapters share: stacking frames, and a last layer at a token's norm."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def stack_frames(hidden: Tensor, mask: Tensor, stack: int) -> tuple[Tensor, Tensor]:
    """Concatenate each run of ``stack`` frames into one; a short last run is filled with zeros.

    Args:
        hidden: (batch, frames, dim).
        mask: (batch, frames) bool, True = real; real frames come first.
        stack: frames per output frame, >= 1.

    Returns:
        (batch, ceil(frames / stack), stack * dim) with padding zero, and its bool mask.
    """
    batch, frames, dim = hidden.shape
    hidden = torch.where(mask[..., None], hidden, 0)
    missing = -frames % stack
    hidden = nn.functional.pad(hidden, (0, 0, 0, missing))
    mask = nn.functional.pad(mask, (0, missing))
    stacked = hidden.reshape(batch, (frames + missing) // stack, stack * dim)
    return stacked, mask.reshape(batch, -1, stack).any(-1)


class OutputProjection(nn.Linear):
    """A linear layer on LayerNorm outputs whose own outputs start at a given Euclidean norm.

    Equation: inputs have norm sqrt(in), so weights of standard deviation
    ``output_norm / sqrt(in * out)`` give outputs of expected squared norm ``output_norm ** 2``.

    Args:
        in_features: width of the inputs.
        out_features: width of the outputs.
        output_norm: > 0.
    """

    def __init__(self, in_features: int, out_features: int, output_norm: float) -> None:
        self.output_norm = output_norm  # read by reset_parameters, which nn.Linear calls
        super().__init__(in_features, out_features)

    def reset_parameters(self) -> None:
        """Initialise, as the equation says; no bias."""
        std = self.output_norm / math.sqrt(self.in_features * self.out_features)
        nn.init.normal_(self.weight, std=std)
        nn.init.zeros_(self.bias)
