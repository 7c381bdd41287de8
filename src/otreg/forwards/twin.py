"""The text twin of a batch: the same rows with transcripts in place of the speech."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Twin:
    """A batch in which every clip is replaced by its transcript's tokens; padded on the right.

    Args:
        input_ids: (batch, twin tokens) long.
        attention_mask: (batch, twin tokens) long.
        labels: (batch, twin tokens) long, the rows' labels at the same tokens.
        clips: (clips, 3) row, first position and length of each transcript.
        index: (batch, tokens) for each column of the speech rows that of the same token in the
            twin; -1 at placeholders and padding.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    clips: Tensor
    index: Tensor


def twin_of(batch: Mapping[str, Tensor], pad_token_id: int) -> Twin:
    """Build the twin of a training batch.

    Args:
        batch: as the collator makes it; every clip with a transcript.
        pad_token_id: fills the rest.

    Raises:
        ValueError: a clip without a transcript.
    """
    ids, real = batch["input_ids"], batch["attention_mask"].bool()
    clips = batch.get("clips")
    if clips is None:
        clips = ids.new_zeros(0, 3)
    width = ids.new_ones(ids.shape).masked_fill_(~real, 0)  # twin tokens that each column becomes
    if len(clips):
        lengths = batch["text_mask"].sum(1)
        if not bool((lengths > 0).all()):
            missing = (lengths == 0).nonzero().flatten().tolist()
            raise ValueError(
                f"the clips {missing} of the batch have no transcript, so the rows have no text "
                "twin; give every clip a text, or leave out objectives that need the twin"
            )
        rows, starts, counts = clips.unbind(1)
        columns = torch.arange(ids.shape[1], device=ids.device)
        inside = (columns >= starts[:, None]) & (columns < (starts + counts)[:, None])
        spoken = torch.zeros_like(real).index_put_(
            (rows[:, None].expand_as(inside)[inside], columns.expand_as(inside)[inside]),
            inside.new_ones(()),
        )
        width = width.masked_fill_(spoken, 0)
        width[rows, starts] = lengths
    else:
        spoken = torch.zeros_like(real)
    ends = width.cumsum(1)
    place = ends - width  # (batch, tokens) where each column's tokens begin
    totals = ends[:, -1]
    size = int(totals.max())
    written = real & ~spoken
    index = torch.where(written, place, -1)
    at = written.nonzero(as_tuple=True)
    twin_ids = ids.new_full((len(ids), size), pad_token_id)
    twin_ids[at[0], place[at]] = ids[at]
    labels = ids.new_full((len(ids), size), -100)
    if "labels" in batch:
        labels[at[0], place[at]] = batch["labels"][at]
    twin_clips = clips.clone()
    if len(clips):
        first = place[rows, starts]
        twin_clips = torch.stack([rows, first, lengths], dim=1)
        tokens = batch["text_mask"].nonzero(as_tuple=True)
        rank = batch["text_mask"].cumsum(1)[tokens] - 1
        twin_ids[rows[tokens[0]], first[tokens[0]] + rank] = batch["text_ids"][tokens]
    mask = (torch.arange(size, device=ids.device) < totals[:, None]).long()
    return Twin(twin_ids, mask, labels, twin_clips, index)
