"""Frame counts: how many frames each strided layer leaves of an utterance, in one place.

The processor writes one placeholder token per speech frame and the model checks that count, so both
read the same *frame plan*: a list of (kernel, stride, padding), one entry per strided layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

Length = TypeVar("Length", int, Tensor)
FramePlan = list[tuple[int, int, int]]

# The convolutions of transformers' WhisperEncoder.
WHISPER_PLAN: FramePlan = [(3, 1, 1), (3, 2, 1)]


def apply_frame_plan(length: Length, plan: Sequence[Sequence[int]]) -> Length:
    """Count the frames that are left of an utterance after the layers of a plan.

    Equation: ``L <- (L + 2 padding - kernel) // stride + 1`` for each layer, never below 0.

    Args:
        length: input frames or samples, an int or an integer tensor of any shape.
        plan: (kernel, stride, padding) of each layer, in the order in which they run.

    Returns:
        The count of output frames, of the same type as ``length``.
    """
    for kernel, stride, padding in plan:
        length = (length + 2 * padding - kernel) // stride + 1
    return length.clamp_min(0) if isinstance(length, Tensor) else max(length, 0)


def encoder_frame_plan(audio_config: Any) -> FramePlan:
    """Derive the frame plan of a Hugging Face speech encoder from its configuration.

    Args:
        audio_config: the encoder's configuration (Whisper, the wav2vec 2.0 family, Wav2Vec2-BERT,
            or any that lists ``conv_kernel`` and ``conv_stride``).

    Returns:
        (kernel, stride, padding) per strided layer.

    Raises:
        ValueError: the configuration does not say how the encoder shortens its input.
    """
    if audio_config.model_type == "whisper":
        return list(WHISPER_PLAN)
    kernels = getattr(audio_config, "conv_kernel", None)
    strides = getattr(audio_config, "conv_stride", None)
    if audio_config.model_type == "wav2vec2-bert":
        plan: FramePlan = []
    elif kernels is not None and strides is not None:
        plan = [(int(k), int(s), 0) for k, s in zip(kernels, strides, strict=True)]
    else:
        raise ValueError(
            f"the frame plan of a {audio_config.model_type!r} encoder is not known; pass "
            "encoder_frame_plan=[(kernel, stride, padding), …] with one entry per strided layer"
        )
    if getattr(audio_config, "add_adapter", False):
        kernel, stride = audio_config.adapter_kernel_size, audio_config.adapter_stride
        padding = stride // 2 if audio_config.model_type == "wav2vec2-bert" else 1
        plan += [(kernel, stride, padding)] * audio_config.num_adapter_layers
    return plan


def lengths_to_mask(lengths: Tensor, size: int) -> Tensor:
    """Turn lengths into a boolean mask of right-padded rows.

    Args:
        lengths: (batch,) integers.
        size: number of columns.

    Returns:
        (batch, size) bool, True = real.
    """
    return torch.arange(size, device=lengths.device) < lengths[:, None]
