"""Distillation from the language model's own answers to text."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from otreg.objectives.base import Term, View
from otreg.objectives.cross_entropy import labelled_tokens, predicted_positions

TEACHERS = ("reference_text", "text")
_MAX_CELLS = 2**24  # log-probabilities of a chunk of positions


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
        divergence = divergences(
            teacher.logits.detach()[rows, twin], view.speech.logits[rows, positions]
        )

        def by_row() -> Tensor:
            share = divergence.new_zeros(len(view.batch["input_ids"]))
            return share.index_add(0, rows, divergence.detach())

        return Term(divergence.sum(), by_row=by_row)


def divergences(teacher_logits: Tensor, logits: Tensor) -> Tensor:
    """KL(Q || P) = sum_v Q_v (log Q_v - log P_v) at each position, in float32.

    Args:
        teacher_logits: (positions, vocab) of Q.
        logits: (positions, vocab) of P.

    Returns:
        (positions,) in nats.
    """
    chunk = max(1, _MAX_CELLS // max(1, logits.shape[-1]))
    parts = []
    for q, p in zip(teacher_logits.split(chunk), logits.split(chunk), strict=True):
        log_q, log_p = q.float().log_softmax(-1), p.float().log_softmax(-1)
        parts.append((log_q.exp() * (log_q - log_p)).sum(-1))
    return torch.cat(parts) if parts else logits.new_zeros(0, dtype=torch.float32)
