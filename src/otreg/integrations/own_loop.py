"""A pair in a training loop of one's own, from the labels at hand."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from otreg.data.padding import pad_ids
from otreg.forwards.token_rows import read_rows, table_of
from otreg.integrations.transcripts import words_of_labels
from otreg.pair import SpeechTextPair


def pair_from_labels(
    speech: Tensor,
    lengths: Tensor,
    labels: Tensor,
    embeddings: nn.Module,
    *,
    special_ids: Iterable[int],
    end_ids: Iterable[int] = (),
    pad_token_id: int | None = None,
) -> SpeechTextPair:
    """A pair from what a training loop of one's own has at hand.

    Args:
        speech: (batch, frames, dim) the rows of speech that enter the language model.
        lengths: (batch,) how many of them are audio; or a mask (batch, frames), 1 = audio.
        labels: (batch, tokens) -100 where not supervised; the rest is the transcript, with end and
            special tokens or without.
        embeddings: the language model's input embeddings, `get_input_embeddings()`; called, never
            read past its forward.
        special_ids: ids that are no text, such as `tokenizer.all_special_ids`.
        end_ids: ids that end an answer: what follows the first of them is dropped, too.
        pad_token_id: the row that stands for "nothing said", for objectives with a pad anchor.

    Returns:
        The pair.

    Raises:
        ValueError: lengths that count mel or encoder frames, a pad_token_id of -1, or labels without
            text.

    Example:
        >>> embed = nn.Embedding(9, 4)
        >>> labels = torch.tensor([[-100, 5, 6, 2]])
        >>> pair_from_labels(torch.randn(1, 7, 4), torch.tensor([7]), labels, embed,
        ...                  special_ids=[2]).token_ids
        tensor([[5, 6]])
    """
    if speech.ndim != 3:
        raise ValueError(f"speech must be (batch, frames, dim), got {tuple(speech.shape)}")
    if pad_token_id is not None and pad_token_id < 0:
        raise ValueError(
            f"pad_token_id must be a row of the embedding table, got {pad_token_id}, which says that "
            "the model has no pad token; pass None, or the id of a token that never stands in text"
        )
    batch, frames, _ = speech.shape
    mask = _frame_mask(lengths, batch, frames).to(speech.device)
    special = {*special_ids, *end_ids}
    rows = [words_of_labels(row, special, end_ids) for row in labels.tolist()]
    empty = [number for number, row in enumerate(rows) if not row]
    if empty:
        raise ValueError(
            f"the labels of utterance(s) {empty} hold no text besides special tokens; leave these "
            "utterances out"
        )
    ids = pad_ids(rows, 0).to(speech.device)
    text_mask = pad_ids([[1] * len(row) for row in rows], 0).bool().to(speech.device)
    pad = None
    if pad_token_id is not None:
        pad = read_rows(embeddings, ids.new_tensor([pad_token_id]))[0]
    return SpeechTextPair(
        speech,
        read_rows(embeddings, ids),
        mask,
        text_mask,
        token_ids=ids,
        pad_embedding=pad,
        embedding_table=table_of(embeddings),
        pad_token_id=pad_token_id,
    )


def _frame_mask(lengths: Tensor, batch: int, frames: int) -> Tensor:
    """(batch, frames) boolean, of lengths or of a mask."""
    remedy = (
        "it seems to count mel or encoder frames; count the rows that enter the language model, after "
        "the adapter"
    )
    if lengths.ndim == 2:
        if tuple(lengths.shape) != (batch, frames):
            raise ValueError(
                f"a mask of speech must be (batch={batch}, frames={frames}), got "
                f"{tuple(lengths.shape)}: {remedy}"
            )
        return lengths.bool()
    if tuple(lengths.shape) != (batch,):
        raise ValueError(f"lengths must be (batch={batch},), got {tuple(lengths.shape)}")
    if int(lengths.max()) > frames:
        raise ValueError(
            f"lengths go up to {int(lengths.max())} and speech has {frames} frames: {remedy}"
        )
    return torch.arange(frames, device=lengths.device) < lengths[:, None]
