"""Adapters: from encoder frames to fewer speech frames in the language model's embedding space.

Every adapter maps (batch, frames, encoder_dim) and a mask to (batch, ceil(frames / stack), dim) and
a mask. A row's outputs depend on its real frames only: padding, whatever it holds, never leaks in.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from otreg.model.configuration import SpeechLMConfig, encoder_dim


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


def build_adapter(config: SpeechLMConfig, output_dim: int) -> StackMLPAdapter | ConvAdapter:
    """Build the adapter that a configuration asks for.

    Args:
        config: the model's configuration.
        output_dim: width of the language model's input embeddings.

    Returns:
        The adapter, freshly initialised.
    """
    if config.adapter_type == "stack_mlp":
        return StackMLPAdapter(
            encoder_dim(config.audio_config),
            output_dim,
            stack=config.adapter_stack,
            hidden_size=config.adapter_hidden_size,
            layers=config.adapter_layers,
            dropout=config.adapter_dropout,
            output_norm=config.adapter_output_norm,
        )
    return ConvAdapter(
        encoder_dim(config.audio_config),
        output_dim,
        stack=config.adapter_stack,
        hidden_size=config.adapter_hidden_size,
        layers=config.adapter_layers,
        kernel=config.adapter_kernel,
        ffn_ratio=config.adapter_ffn_ratio,
        dropout=config.adapter_dropout,
        output_norm=config.adapter_output_norm,
    )
