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
        source_index: (batch, tokens) long: the column of input_ids that each position comes from,
            -1 at padding; None where a cache continues without a mask.
        log_weight: (batch, tokens) log of each position's soft weight, None = no soft dropping.
    """

    inputs_embeds: Tensor
    attention_mask: Any
    source_index: Tensor | None
    log_weight: Tensor | None = None

    @classmethod
    def unchanged(cls, inputs_embeds: Tensor, attention_mask: Any) -> MergedPrompt:
        """A batch whose positions stand where they stood."""
        index = None
        if attention_mask is not None and attention_mask.shape[:2] == inputs_embeds.shape[:2]:
            index = columns_of(attention_mask)
        return cls(inputs_embeds, attention_mask, index)

    def labels(self, labels: Tensor | None) -> Tensor | None:
        """Labels of input_ids as the positions now stand, -100 at padding."""
        if labels is None or self.source_index is None:
            return labels
        return labels_at(labels, self.source_index)


def columns_of(attention_mask: Tensor) -> Tensor:
    """(batch, tokens) each real position's own column, -1 at padding."""
    columns = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    return torch.where(attention_mask.bool(), columns, -1)


def labels_at(labels: Tensor, source_index: Tensor) -> Tensor:
    """Labels (batch, tokens) moved to where their positions now stand; -100 at padding."""
    moved = gather_rows(labels.to(source_index.device), source_index.clamp_min(0))
    return torch.where(source_index >= 0, moved, -100)


def check_placeholders(placeholders: Tensor, num_frames: Tensor, clips: Tensor | None) -> None:
    """Check that each row has one placeholder per speech frame of its clips.

    Args:
        placeholders: (batch, tokens) bool.
        num_frames: (clips,) speech frames before merging.
        clips: (clips, 3) row, first column and number of placeholders; None = one clip a row.

    Raises:
        ValueError: a clip or row has another number; masked_scatter would silently shift rows.
    """
    batch = len(placeholders)
    if clips is None and batch != len(num_frames):
        raise ValueError(
            f"input_ids has {batch} rows, the audio {len(num_frames)} clips; give one clip per row, "
            "or `clips` as the processor's batch has it"
        )
    if clips is not None and len(clips) != len(num_frames):
        raise ValueError(f"`clips` tells of {len(clips)} clips, the audio holds {len(num_frames)}")
    if clips is None:
        rows = torch.arange(batch, device=num_frames.device)
    else:
        rows = clips[:, 0].to(num_frames.device)
    expected = num_frames.new_zeros(batch).index_add_(0, rows, num_frames)
    counts = placeholders.sum(1).to(num_frames.device)
    wrong = (counts != expected).nonzero().flatten().tolist()
    if wrong:
        row = wrong[0]
        raise ValueError(
            f"row {row} has {int(counts[row])} audio placeholders in input_ids but "
            f"{int(expected[row])} speech frames; build input_ids with the model's own "
            "SpeechLMProcessor (same encoder_frame_plan and adapter_stack)"
        )
    if clips is not None and not torch.equal(clips[:, 2].to(num_frames.device), num_frames):
        number = int((clips[:, 2].to(num_frames.device) != num_frames).nonzero()[0])
        raise ValueError(
            f"clip {number} has {int(clips[number, 2])} placeholders but {int(num_frames[number])} "
            "speech frames; are the clips in the order of their placeholders?"
        )


def merge_speech(
    inputs_embeds: Tensor,
    placeholders: Tensor,
    features: SpeechFeatures,
    attention_mask: Tensor,
    drop: Tensor | None,
    clips: Tensor | None = None,
) -> MergedPrompt:
    """Put speech embeddings where the placeholders are and take out what was merged or dropped.

    Args:
        inputs_embeds: (batch, tokens, dim) embeddings of input_ids, anything at placeholders.
        placeholders: (batch, tokens) bool.
        features: of the same batch; its clips in the order of their placeholders.
        attention_mask: (batch, tokens), nonzero = real; its padding side is kept.
        drop: (frames of the batch,) bool, True = leave this frame out; None = none.
        clips: as in `check_placeholders`.

    Returns:
        The merged prompt.
    """
    check_placeholders(placeholders, features.num_placeholders, clips)
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
        return MergedPrompt(embeds, attention_mask, columns_of(attention_mask), log_weight)
    index, kept = compaction_index(keep, left=is_left_padded(attention_mask))
    if log_weight is not None:
        log_weight = gather_rows(log_weight, index)
    source = torch.where(kept, index, -1)
    return MergedPrompt(gather_rows(embeds, index), kept.long(), source, log_weight)


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
