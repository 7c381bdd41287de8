"""OTReg: optimal transport regularisation of speech embeddings towards their transcript."""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch

from otreg.objectives.base import AlignmentOutput
from otreg.objectives.options import check_at_least_zero, check_choice, check_positive
from otreg.objectives.plan import TransportPlan
from otreg.objectives.plan_losses import sparsity, vocabulary_loss
from otreg.objectives.vocabulary import check_vocabulary, pair_classes
from otreg.pair import SpeechTextPair

LOSSES = ("cost", "entropic", "vocabulary")


@dataclass(frozen=True)
class OTReg:
    """Transport the frames of each utterance to its transcript's unique embeddings, and pull them
    there.

    C_ij = 1 - cos(f_i, g_j)
    P = argmin <P, C + prior> + epsilon KL(P | a b')   subject to  P 1 = a = 1/n,  P' 1 = b

    and the loss of an utterance is one of

        "cost":       sum_ij P_ij C_ij
        "entropic":   the minimum itself, <P, C + prior> + epsilon KL(P | a b') (+ rho KL(P' 1 | b))
        "vocabulary": - mean_i sum_j n P_ij log softmax(cos(f_i, e_v) / temperature)_v=token(j)

    plus sparsity_weight times L_spr, the mean entropy of the rows of n P over its maximum, log m: 0
    = each frame chose one target, 1 = none chose.

    Args:
        loss: "cost" (the paper's), "entropic" or "vocabulary" (soft cross-entropy of the plan).
        unique_threshold: as in `TransportPlan`, like the next five options.
        pad_anchor: add the pair's pad_embedding as a target, "nothing said".
        epsilon: entropic regularisation > 0, in units of the cost (cosines).
        tol: marginal error at which the solver stops.
        max_iter: the most sweeps of the solver.
        plan_gradient: "stop" detaches the plan: exact for "entropic", a surrogate for the others.
            "unrolled" and "implicit" carry the gradient through the plan.
        sparsity_weight: lambda_spr >= 0; needs a plan gradient.
        rho_target: as in `TransportPlan`, like the next four options.
        target_mass: "uniform" or "count".
        pad_mass: the anchor's mass: None, a number in (0, 1) or "estimate".
        position_prior: weight >= 0 of the prior in the cost; 0 = off.
        position_width: the prior's width as a share of the utterance, > 0.
        temperature: of the softmax over the vocabulary, > 0.
        vocabulary: the softmax's classes: "all" rows of the embedding table; "step", the tokens of
            the optimiser step's transcripts; a number k, those and k more, drawn anew each step; or
            "auto", all of a table up to 8192 rows and 2048 drawn ones of a larger one
            (docs/theory.md).
        method: the solver, as in `otreg.sinkhorn`.

    Result:
        Calling it on a SpeechTextPair gives an AlignmentOutput: loss (batch,), plan (batch, frames,
        targets), terms named after the losses ("cost" always, "sparsity", "vocabulary" or
        "entropic" where used), "unconverged" (1 where the solver stopped short), "iterations" (the
        solver's sweeps) and "more_tokens_than_frames" (1 where a transcript has more tokens than
        its speech has frames, so that frames are shared), targets, converged.

        Under torch.compile it is not traced: it runs as it is, between the graphs before and behind
        it, so a whole step cannot be compiled with fullgraph=True.

    Raises:
        ValueError: on options out of range or in conflict, and when the pair lacks what they need.

    Source: Xu et al. 2025 (arXiv 2508.08131); `OTReg.paper()` is its method. L_spr's formula is not
        published; this is ours. The "vocabulary" loss goes beyond the paper.

    Example:
        >>> pair = SpeechTextPair(torch.randn(2, 9, 4), torch.randn(2, 3, 4))
        >>> OTReg()(pair).loss.shape
        torch.Size([2])
    """

    loss: str = "vocabulary"
    unique_threshold: float | None = 0.95
    pad_anchor: bool = False
    epsilon: float = 0.01
    tol: float = 1e-2
    max_iter: int = 500
    plan_gradient: str = "stop"
    sparsity_weight: float = 0.0
    rho_target: float | None = None
    target_mass: str = "uniform"
    pad_mass: float | str | None = None
    position_prior: float = 0.1
    position_width: float = 0.2
    temperature: float = 0.05
    vocabulary: str | int = "auto"
    method: str = "auto"

    @classmethod
    def paper(cls, **overrides: Any) -> "OTReg":
        """The paper's method: cost and sparsity through the plan, pad anchor, uniform balanced
        masses.

        Known from the paper: the loss, the cost, the anchor, unique targets, uniform balanced
        masses and the gradient through the plan. Open in it, so ours: unique_threshold, epsilon,
        the formula and weight of the sparsity, and how the gradient goes through the plan (here the
        exact one).
        """
        options: dict[str, Any] = {
            "loss": "cost",
            "pad_anchor": True,
            "epsilon": 0.05,
            "plan_gradient": "implicit",
            "sparsity_weight": 0.1,
            "position_prior": 0.0,
        }
        return cls(**(options | overrides))

    def __post_init__(self) -> None:
        """Refuse options that are out of range or in conflict."""
        check_choice("loss", self.loss, LOSSES)
        check_positive("temperature", self.temperature)
        check_at_least_zero("sparsity_weight", self.sparsity_weight)
        check_vocabulary(self.vocabulary)
        assert self.transport  # whose options are checked as it is made
        through = self.plan_gradient != "stop"
        if self.sparsity_weight > 0 and not through:
            raise ValueError(
                "sparsity_weight > 0 needs plan_gradient 'unrolled' or 'implicit', got 'stop': "
                "the sparsity of a detached plan has no gradient"
            )
        if self.loss == "entropic" and through and self.sparsity_weight == 0:
            raise ValueError(
                f"plan_gradient must be 'stop' with loss='entropic', got {self.plan_gradient!r}: "
                "that is its exact gradient already (only a sparsity term needs more)"
            )

    @cached_property
    def transport(self) -> TransportPlan:
        """The part of the options that makes the plan."""
        return TransportPlan(
            **{field.name: getattr(self, field.name) for field in fields(TransportPlan)}
        )

    @property
    def needs_vocabulary(self) -> bool:
        """Whether the pair must stand in the embedding space of a vocabulary, not a hidden layer."""
        return self.loss == "vocabulary" or self.pad_anchor

    @property
    def needs_step_ids(self) -> bool:
        """Whether it scores against the transcripts' tokens of the whole step."""
        return self.loss == "vocabulary" and self.vocabulary != "all"

    def __call__(self, pair: SpeechTextPair) -> AlignmentOutput:
        """Solve each utterance's transport problem and return its loss; see the class."""
        if torch.compiler.is_compiling():  # the solver is no graph: it runs as it is, between two
            return torch.compiler.disable(self._evaluate)(pair)
        return self._evaluate(pair)

    def _evaluate(self, pair: SpeechTextPair) -> AlignmentOutput:
        through = self.plan_gradient != "stop"
        # Only losses that pull through the transport problem build a graph of it.
        solved = self.transport.solve(pair, with_gradient=through or self.loss != "vocabulary")
        plan, targets, result = solved.plan, solved.targets, solved.result
        frame_mask, text_mask = pair.speech_mask, pair.text_mask
        assert frame_mask is not None  # SpeechTextPair fills masks in
        assert text_mask is not None
        terms = {"cost": solved.cost}
        if self.loss == "entropic":
            terms["entropic"] = solved.value
        elif self.loss == "vocabulary":
            classes = pair_classes(pair, with_pad=self.pad_anchor, setting=self.vocabulary)
            terms["vocabulary"] = vocabulary_loss(pair, plan, targets, classes, self.temperature)
        loss = terms[self.loss]
        if through:
            terms["sparsity"] = sparsity(plan, frame_mask, targets.mask)
            if self.sparsity_weight > 0:
                loss = loss + self.sparsity_weight * terms["sparsity"]
        too_many = text_mask.sum(1) > frame_mask.sum(1)
        terms["unconverged"] = (~result.converged).to(loss.dtype)
        terms["iterations"] = result.num_iters.to(loss.dtype)
        terms["more_tokens_than_frames"] = too_many.to(loss.dtype)
        terms = {name: term.detach() for name, term in terms.items()}
        return AlignmentOutput(loss, plan, terms, targets, result.converged)
