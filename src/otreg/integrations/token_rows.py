"""A language model's token embeddings, read through the module that owns them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from otreg.pair import TokenRows


def read_rows(embedding: Any, ids: Tensor) -> Tensor:
    """(…, dim) the rows of ids (…) as the language model receives them, without gradient."""
    with torch.no_grad():
        rows: Tensor = embedding(ids)
    return rows


def table_of(embedding: Any) -> Tensor | TokenRows:
    """The (vocab, dim) table of an embedding module, in place; by rows where it is sharded."""
    weight = embedding.weight
    if not hasattr(weight, "full_tensor"):  # of a DTensor alone
        table: Tensor = weight.detach()
        return table
    shape = (int(weight.shape[0]), int(weight.shape[1]))
    return TokenRows(lambda ids: read_rows(embedding, ids), shape, weight.device)
