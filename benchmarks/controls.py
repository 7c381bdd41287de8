"""Controls of the ablation: OTReg's vocabulary loss on plans that no option of OTReg makes.

A configuration names them as any outsider's objective, `type: controls:PositionsAlone`, with this
folder on the path (it is, for scripts that stand in it).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from otreg.objectives import AlignmentOutput
from otreg.objectives.plan import TransportPlan
from otreg.objectives.plan_losses import vocabulary_loss
from otreg.objectives.targets import Targets
from otreg.objectives.vocabulary import pair_classes
from otreg.pair import SpeechTextPair
from otreg.transport import TransportResult, cosine_transport, sinkhorn


@dataclass(frozen=True)
class PositionsAlone:
    """The diagonal: the cost is the position prior and nothing else; speech makes no difference to
    the plan.

    Args:
        position_prior: weight of the prior, > 0.
        epsilon: entropic regularisation.
        tol: marginal error at which the solver stops.
        max_iter: the most sweeps of the solver.
        temperature: of the softmax over the vocabulary.
    """

    position_prior: float = 1.0
    epsilon: float = 0.01
    tol: float = 1e-2
    max_iter: int = 500
    temperature: float = 0.05

    needs_vocabulary = True

    @torch.no_grad()
    def solve(self, pair: SpeechTextPair) -> tuple[TransportResult, Targets]:
        """The plan, with its columns."""
        problem = TransportPlan(position_prior=self.position_prior).problem(pair)
        assert problem.prior is not None
        result = sinkhorn(
            problem.prior.to(problem.source_mass.dtype),
            problem.source_mass,
            problem.target_mass,
            epsilon=self.epsilon,
            tol=self.tol,
            max_iter=self.max_iter,
        )
        return result, problem.targets

    def __call__(self, pair: SpeechTextPair) -> AlignmentOutput:
        """OTReg's vocabulary loss on that plan."""
        return _loss_on(pair, *self.solve(pair), self.temperature)


@dataclass(frozen=True)
class NearestToken:
    """No marginals on the targets: each frame chooses alone, by a softmax of -C / epsilon.

    Args:
        epsilon: entropic regularisation.
        temperature: of the softmax over the vocabulary.
    """

    epsilon: float = 0.01
    temperature: float = 0.05

    needs_vocabulary = True

    @torch.no_grad()
    def solve(self, pair: SpeechTextPair) -> tuple[TransportResult, Targets]:
        """The plan, with its columns."""
        problem = TransportPlan(position_prior=0.0).problem(pair)
        moved = cosine_transport(
            pair.speech,
            problem.targets.embeddings.to(pair.speech.dtype),
            problem.source_mass,
            problem.target_mass,
            epsilon=self.epsilon,
            rho_b=0.0,
        )
        return moved.result, problem.targets

    def __call__(self, pair: SpeechTextPair) -> AlignmentOutput:
        """OTReg's vocabulary loss on that plan."""
        return _loss_on(pair, *self.solve(pair), self.temperature)


def _loss_on(
    pair: SpeechTextPair, result: TransportResult, targets: Targets, temperature: float
) -> AlignmentOutput:
    classes = pair_classes(pair, with_pad=False)
    loss = vocabulary_loss(pair, result.plan, targets, classes, temperature)
    terms = {"vocabulary": loss.detach()}
    return AlignmentOutput(loss, result.plan, terms, targets, result.converged)
