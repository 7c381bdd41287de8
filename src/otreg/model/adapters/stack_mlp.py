"""Stack frames, then an MLP: the paper's adapter."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from otreg.model.adapters.projection import OutputProjection, stack_frames


class StackMLPAdapter(nn.Module):
    """Stack frames, then an MLP: stack -> [linear, GELU] x layers -> LayerNorm -> linear.

    Args:
        input_dim: width of the encoder's frames.
        output_dim: width of the language model's embeddings.
        stack: encoder frames per speech frame, >= 1.
        hidden_size: width of the hidden layers.
        layers: hidden layers, >= 0; with 0 the adapter is LayerNorm and one projection.
        dropout: after each hidden layer, in [0, 1).
        output_norm: norm at which the outputs start.

    Source: arXiv 2508.08131: five stacked frames projected to the language model's width. The
        hidden layer and the LayerNorm, which makes the starting norm exact, are ours.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        *,
        stack: int = 5,
        hidden_size: int,
        layers: int = 1,
        dropout: float = 0.0,
        output_norm: float = 1.0,
    ) -> None:
        super().__init__()
        self.stack = stack
        widths = [stack * input_dim, *[hidden_size] * layers]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden_size), nn.GELU(), nn.Dropout(dropout))
            for width in widths[:-1]
        )
        self.norm = nn.LayerNorm(widths[-1])
        self.output = OutputProjection(widths[-1], output_dim, output_norm)

    def forward(self, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Map (batch, frames, input_dim) and mask to (batch, fewer, output_dim) and mask."""
        hidden, mask = stack_frames(hidden, mask, self.stack)
        for layer in self.layers:
            hidden = layer(hidden)
        hidden = self.output(self.norm(hidden))
        return torch.where(mask[..., None], hidden, 0), mask
