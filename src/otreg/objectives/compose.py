"""Objectives composed by weight."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn

from otreg.objectives.base import AlignmentOutput
from otreg.pair import SpeechTextPair

Objective = Callable[[SpeechTextPair], AlignmentOutput]


class WeightedSum(nn.Module):
    """A sum of objectives, loss = sum_k weight_k loss_k; itself an objective.

    Args:
        objectives: name -> (objective, weight), weights >= 0; an objective of weight 0 is not
            evaluated.

    Returns:
        Calling it gives an AlignmentOutput whose terms are named "objective/term", with
        "objective/loss" for each objective's loss before its weight; plan, targets and converged
        come from the first objective that has a plan.

    Raises:
        ValueError: without objectives, or on a weight that is negative or not finite.

    Example:
        >>> from otreg import CTC, OTReg
        >>> both = WeightedSum({"otreg": (OTReg(), 0.3), "ctc": (CTC(), 0.3)})
    """

    def __init__(self, objectives: Mapping[str, tuple[Objective, float]]) -> None:
        super().__init__()
        if not objectives:
            raise ValueError("objectives must name at least one objective, got none")
        for name, (_, weight) in objectives.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"the weight of {name!r} must be finite and >= 0, got {weight}")
        self.objectives = dict(objectives)
        # Registered so that the parameters of objectives train and save with this one.
        self.parametrised = nn.ModuleDict(
            {name: part for name, (part, _) in objectives.items() if isinstance(part, nn.Module)}
        )

    def forward(self, pair: SpeechTextPair) -> AlignmentOutput:
        """Evaluate the objectives and add their losses by weight."""
        loss = torch.zeros(len(pair.speech), device=pair.speech.device)
        terms = {}
        planned: AlignmentOutput | None = None
        for name, (objective, weight) in self.objectives.items():
            if weight == 0:
                continue
            out = objective(pair)
            loss = loss + weight * out.loss
            terms[f"{name}/loss"] = out.loss.detach()
            terms.update({f"{name}/{term}": value for term, value in out.terms.items()})
            if planned is None and out.plan is not None:
                planned = out
        if planned is None:
            return AlignmentOutput(loss, terms=terms)
        return AlignmentOutput(loss, planned.plan, terms, planned.targets, planned.converged)
