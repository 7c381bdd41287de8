"""How far two predictions of the next token lie apart: SALAD's misalignment and forgetting.

    M = Σ_t KL(P(· | text before t) ‖ P(· | mixed before t))      how much speech changes what follows
    F = Σ_t KL(Q(· | text before t) ‖ P(· | text before t))       how much training changed the text

over the positions t whose token is text; P is the trained model, Q the language model before
training, "mixed" the same text with spans of it spoken. Source: SALAD, arXiv 2510.13632.
"""

# ruff: noqa: F821
from typing import Any

import torch
from torch import Tensor

from otreg.objectives.cross_entropy import predicted_positions
from otreg.objectives.distillation import kl_divergence
from otreg.shapes import Float, Int

Sample = tuple[Tensor, Tensor]  # (utterances,) sums over positions, (utterances,) positions


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


@torch.no_grad()
def measure_divergences(view: Any) -> dict[str, Sample]:
    """Misalignment, and forgetting where the view has a reference pass, of a batch.

    Args:
        view: what `otreg.forwards.run_forwards` returns with needs {"text"}, or {"text",
            "reference_text"}.

    Returns:
        "misalignment" and "forgetting" -> sums and positions by row of the batch.
    """
    labels = view.speech.labels
    rows, at, twin = predicted_positions(view)
    text = view.text.logits[rows, twin]
    found = {"misalignment": kl_divergence(text, view.speech.logits[rows, at])}
    if view.reference_text is not None:
        found["forgetting"] = kl_divergence(view.reference_text.logits[rows, twin], text)
    return {name: sum_by_utterance(values, rows, len(labels)) for name, values in found.items()}
