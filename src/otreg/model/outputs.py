"""What the model's methods return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class EncoderStates(ModelOutput):
    """Encoder outputs, named as `SpeechLMForConditionalGeneration.forward` takes them back.

    Args:
        encoder_hidden_states: (batch, encoder frames, encoder_dim), zero at padding.
        encoder_mask: (batch, encoder frames) bool.
    """

    encoder_hidden_states: Tensor = None  # type: ignore[assignment]
    encoder_mask: Tensor = None  # type: ignore[assignment]


@dataclass
class SpeechFeatures(ModelOutput):
    """Speech embeddings of a batch's clips.

    Args:
        last_hidden_state: (clips, encoder frames, encoder_dim) of the encoder.
        pooler_output: (frames of the batch, dim) what enters the language model, one row per frame,
            before any frame is dropped: flat, as Hugging Face's speech language models return it.
        speech_embeds: (clips, frames, dim) what the objectives align: after the adapter and
            merging, before snapping and dropping; zero at padding.
        speech_mask: (clips, frames) bool.
        num_placeholders: (clips,) frames before merging = placeholder tokens in the prompt.
        placeholder_keep: (clips, frames before merging) bool: the placeholder stays, None = all do.
        drop_log_weight: (frames of the batch,) log of each frame's soft weight in training, None =
            no soft dropping.
    """

    last_hidden_state: Tensor = None  # type: ignore[assignment]
    pooler_output: Tensor = None  # type: ignore[assignment]
    speech_embeds: Tensor = None  # type: ignore[assignment]
    speech_mask: Tensor = None  # type: ignore[assignment]
    num_placeholders: Tensor = None  # type: ignore[assignment]
    placeholder_keep: Tensor | None = None
    drop_log_weight: Tensor | None = None


@dataclass
class SpeechLMOutput(ModelOutput):
    """Output of `SpeechLMForConditionalGeneration.forward`.

    Args:
        loss: () cross-entropy of the labels, None without labels.
        logits: (batch, tokens, vocab); where frames were merged or dropped, tokens is what is left.
        labels: (batch, tokens) long, the labels that were given, as the positions now stand.
        attention_mask: (batch, tokens) long, 1 = real.
        source_index: (batch, tokens) long: the column of input_ids that each position comes from;
            -1 at padding. It aligns everything across merging and dropping.
        past_key_values: the language model's cache.
        hidden_states: of the language model, on request: (batch, tokens, dim) each, the first being
            what enters it.
        attentions: of the language model, on request.
        speech_embeds: (clips, frames, dim) as in `SpeechFeatures`.
        speech_mask: (clips, frames) bool.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    labels: Tensor | None = None
    attention_mask: Tensor | None = None
    source_index: Tensor | None = None
    past_key_values: Any = None
    hidden_states: Any = None
    attentions: Any = None
    speech_embeds: Tensor | None = None
    speech_mask: Tensor | None = None
