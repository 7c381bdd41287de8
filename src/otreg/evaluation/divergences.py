"""How far two predictions of the next token lie apart: SALAD's misalignment and forgetting.

    M = Σ_t KL(P(· | text before t) ‖ P(· | mixed before t))      how much speech changes what follows
    F = Σ_t KL(Q(· | text before t) ‖ P(· | text before t))       how much training changed the text

over the positions t whose token is text; P is the trained model, Q the language model before
training, "mixed" the same text with spans of it spoken. Source: SALAD, arXiv 2510.13632.
"""

# ruff: noqa: F722, F821
from typing import Any

import torch
from torch import Tensor

from otreg.shapes import Bool, Float, Int

Sample = tuple[Tensor, Tensor]  # (utterances,) sums over positions, (utterances,) positions
IGNORED = -100  # the label of a position that nothing is learned from


@torch.no_grad()
def kl_divergence(
    target: Float[Tensor, "positions vocab"],
    other: Float[Tensor, "positions vocab"],
    *,
    max_elements: int = 2**24,
) -> Tensor:
    """KL(target ‖ other) = Σ_v p_v (log p_v − log q_v) at each position, in nats.

    Args:
        target: (positions, vocab) logits or log-probabilities of p.
        other: (positions, vocab) logits or log-probabilities of q, over the same vocabulary.
        max_elements: probabilities held at once; positions are walked in chunks of that size.

    Returns:
        (positions,) float32 (float64 for float64 inputs), at least 0 up to rounding; infinity where
        q excludes what p allows.

    Raises:
        ValueError: shapes that differ.
    """
    if target.ndim != 2 or target.shape != other.shape:
        raise ValueError(
            "expected target and other of one shape (positions, vocab), received "
            f"{tuple(target.shape)} and {tuple(other.shape)}; cut both to the vocabulary they share"
        )
    wide = torch.float64 in (target.dtype, other.dtype)
    dtype = torch.float64 if wide else torch.float32
    rows = max(1, max_elements // max(1, target.shape[1]))
    parts = []
    for first in range(0, len(target), rows):
        log_p = target[first : first + rows].to(dtype).log_softmax(dim=1)
        log_q = other[first : first + rows].to(dtype).log_softmax(dim=1)
        terms = torch.where(log_p == -torch.inf, 0.0, log_p.exp() * (log_p - log_q))  # 0 log 0 = 0
        parts.append(terms.sum(dim=1))
    return torch.cat(parts) if parts else target.new_zeros(0, dtype=dtype)


def sum_by_utterance(
    values: Float[Tensor, "positions"], rows: Int[Tensor, "positions"], num_utterances: int
) -> Sample:
    """Sums of the values of each utterance's positions, and how many positions there are.

    Args:
        values: (positions,) such as `kl_divergence` returns.
        rows: (positions,) which utterance each belongs to.
        num_utterances: how many there are.

    Returns:
        Two (num_utterances,) float64 tensors, as `otreg.evaluation.samples.sample_record` takes
        them.
    """
    sums = torch.zeros(num_utterances, dtype=torch.float64, device=values.device)
    counts = sums.clone()
    sums.index_add_(0, rows, values.double())
    counts.index_add_(0, rows, torch.ones_like(values, dtype=torch.float64))
    return sums.cpu(), counts.cpu()


def text_positions(
    twin_index: Int[Tensor, "batch tokens"], counted: Bool[Tensor, "batch tokens"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Where the next token is text, in the speech rows and in their text twins.

    Args:
        twin_index: (batch, tokens) position of each token in the twin, -1 = it has none.
        counted: (batch, tokens) which tokens count, for instance those with a label.

    Returns:
        (positions,) row, position in the speech row whose logits predict the token, and position in
        the twin whose logits predict it.
    """
    rows, at = torch.nonzero(counted & (twin_index > 0), as_tuple=True)
    rows, at = rows[at > 0], at[at > 0]
    return rows, at - 1, twin_index[rows, at] - 1


def measure_divergences(view: Any) -> dict[str, Sample]:
    """Misalignment, and forgetting where the view has a reference pass, of a batch.

    Args:
        view: what `otreg.forwards.run_forwards` returns with needs {"text"}, or {"text",
            "reference_text"}.

    Returns:
        "misalignment" and "forgetting" -> sums and positions by row of the batch.
    """
    labels = view.speech.labels
    rows, at, twin = text_positions(view.twin_index, labels != IGNORED)
    text = view.text.logits[rows, twin]
    found = {"misalignment": kl_divergence(text, view.speech.logits[rows, at])}
    if view.reference_text is not None:
        found["forgetting"] = kl_divergence(view.reference_text.logits[rows, twin], text)
    return {name: sum_by_utterance(values, rows, len(labels)) for name, values in found.items()}
