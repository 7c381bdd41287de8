"""Cross-entropy of the labelled tokens: an objective like any other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from otreg.objectives.base import Term, View

IGNORED_LABEL = -100


def labelled_tokens(labels: Tensor) -> Tensor:
    """() how many tokens are predicted: those with a label, but for a row's first position."""
    return (labels[:, 1:] != IGNORED_LABEL).sum()


def next_labels(labels: Tensor) -> Tensor:
    """(batch, tokens) the label that each position predicts, -100 at the last."""
    return F.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL)


class CrossEntropy:
    """Next-token cross-entropy, - sum over labelled tokens of log P(token | what stands before it).

    Its count is the number of labelled tokens. Logits are taken in float32.
    """

    needs: frozenset[str] = frozenset()
    layers: frozenset[int] = frozenset()

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        """() labelled tokens."""
        return labelled_tokens(batch["labels"])

    def __call__(self, view: View) -> Term:
        """The sum over the batch; see the class."""
        logits = view.speech.logits.float()  # (batch, tokens, vocab)
        labels = next_labels(view.speech.labels).to(logits.device)
        total = F.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED_LABEL, reduction="sum"
        )

        def by_row() -> Tensor:
            losses = F.cross_entropy(
                logits.detach().flatten(0, 1),
                labels.flatten(),
                ignore_index=IGNORED_LABEL,
                reduction="none",
            )
            return losses.view_as(labels).sum(1)

        return Term(total, by_row=by_row)


def predicted_positions(view: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Where each labelled token of the speech row and its twin is predicted.

    Args:
        view: a `View`, of which speech.labels and twin_index are read.

    Returns:
        rows, speech positions and twin positions, (labelled tokens,) each: the logits there are
        those of the token's distribution, given speech and given text.

    Raises:
        ValueError: the view has no twin.
    """
    if view.twin_index is None:
        raise ValueError("this needs the text twin; list 'text' or 'reference_text' in needs")
    labelled = view.speech.labels != IGNORED_LABEL
    labelled[:, 0] = False
    rows, columns = labelled.nonzero(as_tuple=True)
    twin = view.twin_index[rows, columns]
    assert bool((twin > 0).all())  # a labelled token is text, and text stands in the twin
    return rows, columns - 1, twin - 1
