"""Adapters: from encoder frames to fewer speech frames in the language model's embedding space.

Every adapter maps (batch, frames, encoder_dim) and a mask to (batch, ceil(frames / stack), dim) and
a mask. A row's outputs depend on its real frames only: padding, whatever it holds, never leaks in.
"""

from otreg.model.adapters.conv import ConvAdapter
from otreg.model.adapters.projection import OutputProjection, stack_frames
from otreg.model.adapters.stack_mlp import StackMLPAdapter
from otreg.model.configuration import SpeechLMConfig, encoder_dim

__all__ = ["ConvAdapter", "OutputProjection", "StackMLPAdapter", "build_adapter", "stack_frames"]


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
