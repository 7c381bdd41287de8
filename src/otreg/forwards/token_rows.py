"""A language model's token embeddings, read through the module that owns them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from otreg.objectives.base import Vocabulary
from otreg.pair import TokenRows


def read_rows(embedding: Any, ids: Tensor) -> Tensor:
    """(…, dim) the rows of ids (…) as the language model receives them, without gradient.

    In evaluation mode, lest a hook that is for training (NEFTune's noise) changes them.
    """
    was_training = embedding.training
    embedding.training = False
    try:
        with torch.no_grad():
            rows: Tensor = embedding(ids if ids.ndim > 1 else ids[None]).detach()
    finally:
        embedding.training = was_training
    return rows if ids.ndim > 1 else rows[0]


def table_of(embedding: Any) -> Tensor | TokenRows:
    """The (vocab, dim) table of an embedding module, in place; by rows where it is sharded."""
    weight = embedding.weight
    if not hasattr(weight, "full_tensor"):  # of a DTensor alone
        table: Tensor = weight.detach()
        return table
    shape = (int(weight.shape[0]), int(weight.shape[1]))
    return TokenRows(lambda ids: read_rows(embedding, ids), shape, weight.device)


def vocabulary_of(embedding: Any, pad_token_id: int | None) -> Vocabulary:
    """What objectives read of an embedding module."""
    return Vocabulary(lambda ids: read_rows(embedding, ids), table_of(embedding), pad_token_id)
