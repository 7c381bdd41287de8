"""Stack frames, then convolution blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from otreg.model.adapters.projection import OutputProjection, stack_frames


class ConvBlock(nn.Module):
    """One residual block: x + GELU(conv(LN x)), then x + FFN(LN x); conv sees zeros as padding."""

    def __init__(self, dim: int, kernel: int, ffn_size: int, dropout: float) -> None:
        super().__init__()
        self.conv_norm = nn.LayerNorm(dim)
        self.conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2)
        self.ffn_norm = nn.LayerNorm(dim)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn_size), nn.GELU(), nn.Linear(ffn_size, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Map (batch, frames, dim) to the same shape."""
        normed = torch.where(mask[..., None], self.conv_norm(hidden), 0)
        mixed = self.conv(normed.transpose(1, 2)).transpose(1, 2)
        hidden = hidden + self.dropout(nn.functional.gelu(mixed))
        return hidden + self.dropout(self.ffn(self.ffn_norm(hidden)))


class ConvAdapter(nn.Module):
    """Stack frames, then convolution blocks: stack -> linear -> N x block -> LayerNorm -> linear.

    It has no absolute positions: those hurt out of domain in our miniature.

    Args:
        input_dim: width of the encoder's frames.
        output_dim: width of the language model's embeddings.
        stack: encoder frames per speech frame, >= 1.
        hidden_size: width of the blocks.
        layers: blocks, >= 0.
        kernel: kernel of the convolutions in speech frames, odd.
        ffn_ratio: width of the feed-forward layers over ``hidden_size``.
        dropout: on each residual branch, in [0, 1).
        output_norm: norm at which the outputs start.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        *,
        stack: int = 2,
        hidden_size: int,
        layers: int = 3,
        kernel: int = 5,
        ffn_ratio: float = 4.0,
        dropout: float = 0.0,
        output_norm: float = 1.0,
    ) -> None:
        super().__init__()
        self.stack = stack
        self.input = nn.Linear(stack * input_dim, hidden_size)
        ffn_size = round(ffn_ratio * hidden_size)
        self.layers = nn.ModuleList(
            ConvBlock(hidden_size, kernel, ffn_size, dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(hidden_size)
        self.output = OutputProjection(hidden_size, output_dim, output_norm)

    def forward(self, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Map (batch, frames, input_dim) and mask to (batch, fewer, output_dim) and mask."""
        hidden, mask = stack_frames(hidden, mask, self.stack)
        hidden = self.input(hidden)
        for layer in self.layers:
            hidden = layer(hidden, mask)
        hidden = self.output(self.norm(hidden))
        return torch.where(mask[..., None], hidden, 0), mask
