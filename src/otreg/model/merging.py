"""Merging speech into a prompt: placeholders become embeddings, removed frames leave the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from otreg.model.compression import compaction_index, gather_rows, is_left_padded
from otreg.model.outputs import SpeechFeatures


@dataclass(frozen=True)
class MergedPrompt:
    """A batch ready for the language model.

    Args:
        inputs_embeds: (batch, tokens, dim).
        attention_mask: (batch, tokens) long; None only where a cache continues without one.
        labels: (batch, tokens) long or None.
        log_weight: (batch, tokens) log of each position's soft weight, None = no soft dropping.
    """

    inputs_embeds: Tensor
    attention_mask: Any
    labels: Tensor | None
    log_weight: Tensor | None


def check_placeholders(placeholders: Tensor, num_frames: Tensor) -> None:
    """Check that each row has one placeholder per speech frame.

    Args:
        placeholders: (batch, tokens) bool.
        num_frames: (batch,) speech frames before merging.

    Raises:
        ValueError: a row has another number; masked_scatter would silently shift rows.
    """
    if len(placeholders) != len(num_frames):
        raise ValueError(
            f"input_ids has {len(placeholders)} rows, the audio {len(num_frames)}; give one "
            "utterance per row"
        )
    counts = placeholders.sum(1)
    wrong = (counts != num_frames).nonzero().flatten().tolist()
    if wrong:
        row = wrong[0]
        raise ValueError(
            f"row {row} has {int(counts[row])} audio placeholders in input_ids but "
            f"{int(num_frames[row])} speech frames; build input_ids with the model's own "
            "SpeechLMProcessor (same encoder_frame_plan and adapter_stack)"
        )


def merge_speech(
    inputs_embeds: Tensor,
    placeholders: Tensor,
    features: SpeechFeatures,
    attention_mask: Tensor,
    labels: Tensor | None,
    drop: Tensor | None,
) -> MergedPrompt:
    """Put speech embeddings where the placeholders are and take out what was merged or dropped.

    Args:
        inputs_embeds: (batch, tokens, dim) embeddings of input_ids, anything at placeholders.
        placeholders: (batch, tokens) bool.
        features: of the same batch.
        attention_mask: (batch, tokens), nonzero = real; its padding side is kept.
        labels: (batch, tokens) or None.
        drop: (frames of the batch,) bool, True = leave this frame out; None = none.

    Returns:
        The merged prompt.
    """
    check_placeholders(placeholders, features.num_placeholders)
    speech = features.pooler_output.to(inputs_embeds.device, inputs_embeds.dtype)
    filled = placeholders  # placeholders that receive an embedding
    if features.placeholder_keep is not None:
        before = torch.arange(features.placeholder_keep.shape[1], device=placeholders.device)
        real = before < features.num_placeholders[:, None]
        filled = torch.zeros_like(placeholders)
        filled[placeholders] = features.placeholder_keep[real]
    embeds = inputs_embeds.masked_scatter(filled[..., None].expand_as(inputs_embeds), speech)
    keep = attention_mask.bool()
    removed = features.placeholder_keep is not None or drop is not None
    if features.placeholder_keep is not None:
        keep = keep & (filled | ~placeholders)
    if drop is not None:
        dropped = torch.zeros_like(placeholders)
        dropped[filled] = drop
        keep = keep & ~dropped
    log_weight = None
    if features.drop_log_weight is not None:
        log_weight = torch.zeros(placeholders.shape, device=embeds.device)
        log_weight = log_weight.masked_scatter(filled, features.drop_log_weight.float())
    if not removed:
        return MergedPrompt(embeds, attention_mask, labels, log_weight)
    index, kept = compaction_index(keep, left=is_left_padded(attention_mask))
    if labels is not None:
        labels = torch.where(kept, gather_rows(labels, index), -100)
    if log_weight is not None:
        log_weight = gather_rows(log_weight, index)
    return MergedPrompt(gather_rows(embeds, index), kept.long(), labels, log_weight)


def left_align(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move the padding of a batch to the left, as generation needs it.

    Args:
        input_ids: (batch, tokens).
        attention_mask: (batch, tokens), nonzero = real.

    Returns:
        The same two, left-padded, without columns that are padding in every row.
    """
    index, kept = compaction_index(attention_mask.bool(), left=True)
    return gather_rows(input_ids, index), kept.long()
