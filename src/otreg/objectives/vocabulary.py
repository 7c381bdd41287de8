"""Scores of speech embeddings against the language model's vocabulary."""

from dataclasses import dataclass

import torch
from torch import Tensor

from otreg.pair import SpeechTextPair
from otreg.transport import cosine_similarity

EXCLUDED = -1e4  # finite: infinities make CTC's gradient NaN


@dataclass(frozen=True)
class Vocabulary:
    """The classes that speech embeddings are scored against.

    Args:
        rows: (classes, dim) one embedding per class, without gradient; the pad class, if any, comes
            last.
        token_class: (batch, tokens) the class of each transcript token; 0 at padding.
        pad_class: index of the pad row's class; None without one.
        excluded: (classes,) boolean, True for table rows that equal the pad row and give way to its
            class; None where there are none.
    """

    rows: Tensor
    token_class: Tensor
    pad_class: int | None
    excluded: Tensor | None

    def logits(self, speech: Tensor, temperature: float) -> Tensor:
        """Scores cos(speech, row) / temperature, (batch, frames, classes), float32."""
        scores = cosine_similarity(speech, self.rows) / temperature
        return scores if self.excluded is None else scores.masked_fill(self.excluded, EXCLUDED)


def pair_vocabulary(pair: SpeechTextPair, *, pad_class: bool) -> Vocabulary:
    """Collect the classes of a pair: its embedding table, or else the batch's distinct tokens.

    Args:
        pair: with an embedding_table and token_ids; or without a table, when the distinct tokens of
            the batch (by id where token_ids are given, by row otherwise) are the whole vocabulary.
        pad_class: add the pair's pad_embedding as a class of its own.

    Raises:
        ValueError: when token_ids are missing beside a table, pad_embedding is missing, or a
            transcript holds a token whose row equals the pad row.
    """
    mask = pair.text_mask
    assert mask is not None  # SpeechTextPair fills masks in
    if pair.embedding_table is not None:
        if pair.token_ids is None:
            raise ValueError(
                "token_ids are needed to find the transcript in the pair's embedding_table, got "
                "None; pass SpeechTextPair(token_ids=…)"
            )
        rows = pair.embedding_table.detach()
        token_class = torch.where(mask, pair.token_ids.long(), 0)
    else:
        rows, token_class = _batch_rows(pair, mask)

    if not pad_class:
        return Vocabulary(rows, token_class, None, None)
    if pair.pad_embedding is None:
        raise ValueError(
            "pad_embedding is needed for the class of silence, got None; pass "
            "SpeechTextPair(pad_embedding=…), the row of the language model's pad token"
        )
    pad = pair.pad_embedding.detach().to(rows.dtype)
    excluded = (rows == pad).all(1)
    if bool((excluded[token_class] & mask).any()):
        raise ValueError(
            "a token of the transcript has the same embedding as the pad row, so silence and that "
            "token cannot be told apart; give the pad token an embedding of its own"
        )
    rows = torch.cat([rows, pad.unsqueeze(0)])
    excluded = torch.cat([excluded, excluded.new_zeros(1)])
    return Vocabulary(rows, token_class, len(rows) - 1, excluded if bool(excluded.any()) else None)


def _batch_rows(pair: SpeechTextPair, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The batch's distinct tokens as a vocabulary: their rows, and the class of each token."""
    text = pair.text.detach()[mask]  # (real tokens, dim)
    if pair.token_ids is None:
        rows, inverse = torch.unique(text, dim=0, return_inverse=True)
    else:
        ids, inverse = torch.unique(pair.token_ids[mask], return_inverse=True)
        rows = text.new_empty(len(ids), text.shape[1]).index_copy_(0, inverse, text)
    token_class = torch.zeros(mask.shape, dtype=torch.long, device=mask.device)
    token_class[mask] = inverse
    return rows, token_class
