"""OTReg: optimal transport regularisation of speech embeddings towards their transcript."""

# ruff: noqa: F722
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from otreg.objectives.base import AlignmentOutput
from otreg.objectives.soft_cross_entropy import soft_cross_entropy
from otreg.objectives.targets import Targets, position_cost, unique_targets
from otreg.objectives.vocabulary import pair_vocabulary
from otreg.pair import SpeechTextPair
from otreg.shapes import Bool, Float
from otreg.transport import CosineTransport, cosine_cost, cosine_transport, sinkhorn
from otreg.transport.sinkhorn import METHODS

LOSSES = ("cost", "entropic", "vocabulary")
PLAN_GRADIENTS = ("stop", "unrolled", "implicit")


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
        unique_threshold: cosine in (-1, 1] at which two tokens share a target; None = all tokens
            apart. A shared target takes the embedding and the token id of its first token.
        pad_anchor: add the pair's pad_embedding as a target, "nothing said".
        epsilon: entropic regularisation > 0, in units of the cost (cosines).
        tol: marginal error at which the solver stops.
        max_iter: the most sweeps of the solver.
        plan_gradient: "stop" detaches the plan: exact for "entropic", a surrogate for the others.
            "unrolled" and "implicit" carry the gradient through the plan.
        sparsity_weight: lambda_spr >= 0; needs a plan gradient.
        rho_target: strength of the KL penalty on the target masses; None = they hold exactly; 0 =
            they are free, so each frame chooses alone.
        target_mass: "uniform": 1/m each; "count": in proportion to the tokens that share the
            target.
        pad_mass: the anchor's mass: None = as any other target; a number in (0, 1); "estimate" =
            (k + 1)/(n + m), where k of the n frames have the anchor as their nearest target.
        position_prior: weight >= 0 of the prior in the cost; 0 = off. It is what a frame pays for
            standing position_width away from its target.
        position_width: the prior's width as a share of the utterance, > 0.
        similarity: False leaves 1 - cos out of the transport problem: a control in which the
            position alone makes the plan.
        temperature: of the softmax over the vocabulary, > 0.
        method: the solver, as in `otreg.sinkhorn`.

    Returns:
        Calling it on a SpeechTextPair gives an AlignmentOutput: loss (batch,), plan (batch, frames,
        targets), terms named after the losses ("cost" always, "sparsity", "vocabulary" or
        "entropic" where used), "unconverged" (1 where the solver stopped short) and "iterations"
        (the solver's sweeps), targets, converged.

    Raises:
        ValueError: on options out of range or in conflict, and when the pair lacks what they need.

    Source: Xu et al. 2025 (arXiv 2508.08131); `OTReg.paper()` is its method. L_spr's formula is not
        published; this is ours. KL-relaxed targets: Chizat et al. 2018 (arXiv 1607.05816). The
        "vocabulary" loss, the prior and the masses go beyond the paper.

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
    similarity: bool = True
    temperature: float = 0.05
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
        _one_of("loss", self.loss, LOSSES)
        _one_of("plan_gradient", self.plan_gradient, PLAN_GRADIENTS)
        _one_of("method", self.method, METHODS)
        _one_of("target_mass", self.target_mass, ("uniform", "count"))
        if self.unique_threshold is not None and not -1 < self.unique_threshold <= 1:
            raise ValueError(
                f"unique_threshold must be a cosine in (-1, 1], got {self.unique_threshold}; pass "
                "None to keep all tokens apart"
            )
        for name in ("epsilon", "tol", "temperature", "position_width"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if self.max_iter < 1:
            raise ValueError(f"max_iter must be at least 1, got {self.max_iter}")
        if self.rho_target is not None and not (
            math.isfinite(self.rho_target) and self.rho_target >= 0
        ):
            raise ValueError(
                f"rho_target must be >= 0 and finite, got {self.rho_target}; pass None for target "
                "masses that hold exactly"
            )
        for name in ("sparsity_weight", "position_prior"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}; 0 turns it off")
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
        if self.pad_mass is not None:
            if not self.pad_anchor:
                raise ValueError(
                    "pad_mass needs pad_anchor=True: without an anchor it means nothing"
                )
            if self.pad_mass != "estimate" and not (
                isinstance(self.pad_mass, float) and 0 < self.pad_mass < 1
            ):
                raise ValueError(
                    "pad_mass must be None, 'estimate' or a number in (0, 1), got "
                    f"{self.pad_mass!r}"
                )
        if not self.similarity and self.position_prior == 0:
            raise ValueError(
                "similarity=False needs position_prior > 0: nothing else is left in the cost"
            )

    def __call__(self, pair: SpeechTextPair) -> AlignmentOutput:
        """Solve each utterance's transport problem and return its loss; see the class."""
        if self.pad_anchor and pair.pad_embedding is None:
            raise ValueError(
                "pad_anchor=True needs the pair's pad_embedding, got None; pass "
                "SpeechTextPair(pad_embedding=…), the row of the language model's pad token"
            )
        speech, frame_mask, text_mask = pair.speech, pair.speech_mask, pair.text_mask
        assert frame_mask is not None  # SpeechTextPair fills masks in
        assert text_mask is not None
        anchor = pair.pad_embedding if self.pad_anchor else None
        targets = unique_targets(pair.text, text_mask, self.unique_threshold, anchor)
        prior = None
        if self.position_prior > 0:
            width = self.position_width / self.position_prior**0.5  # weight and width in one
            prior = position_cost(frame_mask, text_mask, targets, width)
        dtype = torch.float64 if speech.dtype == torch.float64 else torch.float32
        source_mass = frame_mask.to(dtype) / frame_mask.sum(1, keepdim=True)
        moved = self._transport(speech, frame_mask, targets, source_mass, prior)
        plan, result = moved.plan, moved.result
        terms = {"cost": moved.cost}
        if self.loss == "entropic":
            terms["entropic"] = moved.value
        elif self.loss == "vocabulary":
            terms["vocabulary"] = self._vocabulary_loss(pair, speech, frame_mask, plan, targets)
        loss = terms[self.loss]
        if self.plan_gradient != "stop":
            terms["sparsity"] = sparsity(plan, frame_mask, targets.mask)
            if self.sparsity_weight > 0:
                loss = loss + self.sparsity_weight * terms["sparsity"]
        terms["unconverged"] = (~result.converged).to(loss.dtype)
        terms["iterations"] = result.num_iters.to(loss.dtype)
        terms = {name: term.detach() for name, term in terms.items()}
        return AlignmentOutput(loss, plan, terms, targets, result.converged)

    def _transport(
        self,
        speech: Float[Tensor, "batch frames dim"],
        frame_mask: Bool[Tensor, "batch frames"],
        targets: Targets,
        source_mass: Float[Tensor, "batch frames"],
        prior: Float[Tensor, "batch frames targets"] | None,
    ) -> CosineTransport:
        """Solve the utterances' problems; only losses that pull through them build a graph."""
        options: dict[str, Any] = {
            "epsilon": self.epsilon,
            "tol": self.tol,
            "max_iter": self.max_iter,
            "rho_b": self.rho_target,
            "method": self.method,
        }
        through = self.plan_gradient != "stop"
        gradient = self.plan_gradient if through else "envelope"
        with torch.set_grad_enabled(
            torch.is_grad_enabled() and (through or self.loss != "vocabulary")
        ):
            target_mass = self._target_mass(speech, frame_mask, targets)
            if self.similarity:
                return cosine_transport(
                    speech,
                    targets.embeddings.to(speech.dtype),
                    source_mass,
                    target_mass,
                    prior=prior,
                    gradient=gradient,
                    **options,
                )
            assert prior is not None  # __post_init__ saw to it
            result = sinkhorn(prior.to(source_mass.dtype), source_mass, target_mass, **options)
            speech = torch.where(frame_mask.unsqueeze(2), speech, 0.0)
            cost = (result.plan * cosine_cost(speech, targets.embeddings)).sum((1, 2))
            return CosineTransport(cost, result.value, result.plan, result)

    @torch.no_grad()
    def _target_mass(
        self,
        speech: Float[Tensor, "batch frames dim"],
        frame_mask: Bool[Tensor, "batch frames"],
        targets: Targets,
    ) -> Float[Tensor, "batch targets"]:
        """The masses b of the targets, summing to 1."""
        weight = targets.counts() if self.target_mass == "count" else targets.mask
        weight = weight.to(torch.float64 if speech.dtype == torch.float64 else torch.float32)
        mass = weight / weight.sum(1, keepdim=True)
        if self.pad_mass is None:
            return mass
        if self.pad_mass == "estimate":
            cost = cosine_cost(speech, targets.embeddings)
            nearest = cost.masked_fill(~targets.mask.unsqueeze(1), math.inf).argmin(2)
            is_pad = targets.anchor.gather(1, nearest) & frame_mask
            num_cells = frame_mask.sum(1, keepdim=True) + targets.mask.sum(1, keepdim=True)
            anchor_mass = (is_pad.sum(1, keepdim=True) + 1).to(mass.dtype) / num_cells
        else:
            anchor_mass = torch.full_like(mass[:, :1], float(self.pad_mass))
        tokens = torch.where(targets.anchor, 0.0, weight)
        tokens = tokens / tokens.sum(1, keepdim=True)
        with_anchor = torch.where(targets.anchor, anchor_mass, tokens * (1 - anchor_mass))
        return torch.where(targets.anchor.any(1, keepdim=True), with_anchor, mass)

    def _vocabulary_loss(
        self,
        pair: SpeechTextPair,
        speech: Float[Tensor, "batch frames dim"],
        frame_mask: Bool[Tensor, "batch frames"],
        plan: Float[Tensor, "batch frames targets"],
        targets: Targets,
    ) -> Float[Tensor, " batch"]:
        """Mean over frames of the cross-entropy of a row of the plan against the vocabulary."""
        vocabulary = pair_vocabulary(pair, pad_class=self.pad_anchor)
        target_class = vocabulary.token_class.gather(1, targets.token_index.clamp(min=0))
        if vocabulary.pad_class is not None:
            target_class = torch.where(targets.anchor, vocabulary.pad_class, target_class)
        return soft_cross_entropy(
            speech, frame_mask, plan, target_class, vocabulary, self.temperature
        )


def sparsity(
    plan: Float[Tensor, "batch frames targets"],
    frame_mask: Bool[Tensor, "batch frames"],
    target_mask: Bool[Tensor, "batch targets"],
) -> Float[Tensor, " batch"]:
    """Mean over frames of the entropy of the plan's rows, as a share of its maximum log m.

    L_spr = - mean_i sum_j Q_ij log Q_ij / log m,   Q_ij = P_ij / sum_j P_ij;   0 where m = 1.

    Args:
        plan: (batch, frames, targets), zero at padding.
        frame_mask: (batch, frames) boolean, True = real.
        target_mask: (batch, targets) boolean, True = real.

    Returns:
        (batch,) in [0, 1]: 0 = each frame chose one target.

    Source: OTReg (arXiv 2508.08131) names L_spr, whose formula is not published; dividing by log m,
        so that its weight means the same for short and long transcripts, is ours.
    """
    row_mass = plan.sum(2, keepdim=True)
    rows = plan / torch.where(row_mass > 0, row_mass, 1.0)
    tiny = torch.finfo(rows.dtype).tiny
    entropy = -(rows * rows.clamp(min=tiny).log()).sum(2)  # (batch, frames)
    mean = torch.where(frame_mask, entropy, 0.0).sum(1) / frame_mask.sum(1)
    return mean / target_mask.sum(1).clamp(min=2).to(mean.dtype).log()


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
