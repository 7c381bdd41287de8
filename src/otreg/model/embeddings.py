"""The language model's token embeddings, as it receives them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def embedding_scale(embedding: Any) -> Tensor | float:
    """The factor by which an embedding module multiplies its weight: Gemma's has one."""
    scale = getattr(embedding, "embed_scale", None)
    return 1.0 if scale is None else scale


def embedding_rows(embedding: Any) -> Tensor:
    """Give all rows of an embedding module as it hands them out.

    Args:
        embedding: a language model's input embedding.

    Returns:
        (vocab, dim), the weight itself where the module does not scale it, else a scaled copy.
    """
    scale = getattr(embedding, "embed_scale", None)
    weight: Tensor = embedding.weight
    return weight if scale is None else weight * scale


def embedding_row(embedding: Any, token_id: int) -> Tensor:
    """Give one row, (dim,), as the module hands it out."""
    scale = getattr(embedding, "embed_scale", None)
    row: Tensor = embedding.weight[token_id]
    return row if scale is None else row * scale


def median_norm(table: torch.Tensor) -> float:
    """Measure the median Euclidean norm of the rows of (vocab, dim) that are not zero."""
    norms = table.detach().float().norm(dim=1)
    norms = norms[norms > 0]
    if len(norms) == 0:
        raise ValueError(
            "every row of the language model's embedding table is zero: is it trained?"
        )
    return float(norms.median())
