"""Cross-modal retrieval: which rank the right transcript takes among the corpus's transcripts."""

# ruff: noqa: F722, F821
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from otreg.evaluation.vectors import unit
from otreg.shapes import Float, Int

_TIE = 1e-6  # scores closer than this are one score to float32 cosines


def reciprocal_ranks(
    speech: Float[Tensor, "utterances dim"],
    text: Float[Tensor, "utterances dim"],
    keys: Sequence[Hashable] | None = None,
) -> Tensor:
    """1 / rank of each utterance's own transcript by the cosine of pooled vectors.

    rank_u = |{v : cos(speech_u, text_v) >= cos(speech_u, text_u)}|, over distinct transcripts v.
    Ties count against the model, so vectors that all point one way get the last rank.

    Args:
        speech: (utterances, dim) one vector per utterance, such as the mean of its frames' hidden
            states at a layer.
        text: (utterances, dim) the same of its transcript, utterance by utterance.
        keys: what makes two transcripts the same, such as their token ids; None = all differ.

    Returns:
        (utterances,) float64 in (0, 1]; its mean is the MRR, the share of ones is top 1.

    Raises:
        ValueError: shapes that do not fit, NaN or infinity, or one transcript alone.

    Source: AI-STA, arXiv 2503.10211, chooses layers by the MRR of this retrieval (that it pools by
        the mean and compares by the cosine is ours); MRR: Voorhees 1999.
    """
    if speech.ndim != 2 or speech.shape != text.shape:
        raise ValueError(
            "expected speech and text of one shape (utterances, dim), received "
            f"{tuple(speech.shape)} and {tuple(text.shape)}; pool the frames and the tokens first"
        )
    if not (torch.isfinite(speech).all() and torch.isfinite(text).all()):
        raise ValueError("expected finite vectors, received NaN or infinity; leave out padding")
    rows, right = candidates(range(len(text)) if keys is None else keys)
    if len(rows) < 2:
        raise ValueError("expected at least two distinct transcripts to rank, received one")
    scores = unit(speech) @ unit(text[rows]).T
    return reciprocal_ranks_of(scores, right.to(scores.device))


def reciprocal_ranks_of(
    scores: Float[Tensor, "utterances candidates"], right: Int[Tensor, "utterances"]
) -> Tensor:
    """1 / rank of the right candidate; ties count against it.

    Args:
        scores: (utterances, candidates) higher = better.
        right: (utterances,) column of each utterance's own transcript.

    Returns:
        (utterances,) float64.
    """
    own = scores.gather(1, right[:, None])
    return 1 / (scores >= own - _TIE).sum(dim=1).double()  # the right one itself is in the sum


def candidates(keys: Sequence[Hashable]) -> tuple[list[int], Tensor]:
    """The first position of each distinct key, and (len(keys),) which of them each key is."""
    first: dict[Hashable, int] = {}
    for position, key in enumerate(keys):
        first.setdefault(key, position)
    number = {key: index for index, key in enumerate(first)}
    return list(first.values()), torch.tensor([number[key] for key in keys])
