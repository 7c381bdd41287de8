"""Distillation from the language model's own answers to text."""

# ruff: noqa: F722

from collections.abc import Mapping

import torch
from torch import Tensor

from otreg.objectives.base import Term, View
from otreg.objectives.cross_entropy import labelled_tokens, predicted_positions
from otreg.shapes import Float

TEACHERS = ("reference_text", "text")


class Distillation:
    """Keep what the model says after speech near to what a teacher says after the text.

    DIST = sum over labelled tokens t of KL(Q(. | text before t) || P(. | mixed row before t))

    Q is the teacher on the twin row, the transcript in place of the speech; P is the model on the
    row itself. Its count is the number of labelled tokens, as cross-entropy's.

    Args:
        teacher: "reference_text", the weights at the stage's start; or "text", the present ones
            without gradient.

    Raises:
        ValueError: another teacher.

    Source: SALAD (arXiv 2510.13632), whose loss is alpha DIST + (1 - alpha) NLL: two objectives with
        these weights.
    """

    layers: frozenset[int] = frozenset()

    def __init__(self, teacher: str = "reference_text") -> None:
        if teacher not in TEACHERS:
            raise ValueError(f"teacher must be one of {', '.join(TEACHERS)}, got {teacher!r}")
        self.teacher = teacher
        self.needs = frozenset({teacher})

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        """() labelled tokens."""
        return labelled_tokens(batch["labels"])

    def __call__(self, view: View) -> Term:
        """The sum over the batch; see the class."""
        rows, positions, twin = predicted_positions(view)
        teacher = getattr(view, self.teacher)
        divergence = kl_divergence(
            teacher.logits.detach()[rows, twin], view.speech.logits[rows, positions]
        )

        def by_row() -> Tensor:
            share = divergence.new_zeros(len(view.batch["input_ids"]))
            return share.index_add(0, rows, divergence.detach())

        return Term(divergence.sum(), by_row=by_row)


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
