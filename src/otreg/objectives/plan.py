"""The transport plan between the frames of an utterance and its transcript's unique targets."""

# ruff: noqa: F722
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from otreg.objectives.options import check_at_least_zero, check_choice, check_positive
from otreg.objectives.targets import Targets, position_cost, unique_targets
from otreg.pair import SpeechTextPair
from otreg.shapes import Bool, Float
from otreg.transport import TransportResult, check_options, cosine_cost, cosine_transport

PLAN_GRADIENTS = ("stop", "unrolled", "implicit")


@dataclass(frozen=True)
class TransportProblem:
    """What is to be transported where, before it is.

    Args:
        targets: the unique targets, the plan's columns.
        source_mass: (batch, frames) a, 0 at padding.
        target_mass: (batch, targets) b, 0 at padding.
        prior: (batch, frames, targets) what is added to the cost; None = nothing.
    """

    targets: Targets
    source_mass: Tensor
    target_mass: Tensor
    prior: Tensor | None


@dataclass(frozen=True)
class SolvedPlan:
    """A plan and what it costs.

    Args:
        plan: (batch, frames, targets), 0 at padding; has a gradient unless plan_gradient is "stop".
        cost: (batch,) <P, C>, C = 1 - cos, without the prior.
        value: (batch,) the minimum itself, with prior and regularisation.
        targets: the unique targets, the plan's columns.
        result: all that the solver says, without gradient.
    """

    plan: Tensor
    cost: Tensor
    value: Tensor
    targets: Targets
    result: TransportResult


@dataclass(frozen=True)
class TransportPlan:
    """How a pair becomes a transport problem, and how that is solved.

    C_ij = 1 - cos(f_i, g_j)
    P = argmin <P, C + prior> + epsilon KL(P | a b')   subject to  P 1 = a = 1/n,  P' 1 = b

    Args:
        unique_threshold: cosine in (-1, 1] at which two tokens share a target; None = all tokens
            apart. A shared target takes the embedding and the token id of its first token.
        pad_anchor: add the pair's pad_embedding as a target, "nothing said".
        epsilon: entropic regularisation > 0, in units of the cost (cosines).
        tol: marginal error at which the solver stops.
        max_iter: the most sweeps of the solver.
        plan_gradient: "stop" detaches the plan; "unrolled" and "implicit" carry the gradient
            through it.
        rho_target: strength > 0 of the KL penalty on the target masses; None = they hold exactly.
        target_mass: "uniform": 1/m each; "count": in proportion to the tokens that share the
            target.
        pad_mass: the anchor's mass: None = as any other target; a number in (0, 1); "estimate" =
            (k + 1)/(n + m), where k of the n frames have the anchor as their nearest target.
        position_prior: weight >= 0 of the prior in the cost; 0 = off. It is what a frame pays for
            standing position_width away from its target.
        position_width: the prior's width as a share of the utterance, > 0.
        method: the solver, as in `otreg.sinkhorn`.

    Raises:
        ValueError: on options out of range or in conflict.

    Source: Xu et al. 2025 (arXiv 2508.08131). KL-relaxed targets: Chizat et al. 2018 (arXiv
        1607.05816). The prior and the masses go beyond the paper.

    Example:
        >>> pair = SpeechTextPair(torch.randn(2, 9, 4), torch.randn(2, 3, 4))
        >>> TransportPlan(epsilon=0.05).solve(pair).plan.shape
        torch.Size([2, 9, 3])
    """

    unique_threshold: float | None = 0.95
    pad_anchor: bool = False
    epsilon: float = 0.01
    tol: float = 1e-2
    max_iter: int = 500
    plan_gradient: str = "stop"
    rho_target: float | None = None
    target_mass: str = "uniform"
    pad_mass: float | str | None = None
    position_prior: float = 0.1
    position_width: float = 0.2
    method: str = "auto"

    def __post_init__(self) -> None:
        """Refuse options that are out of range or in conflict."""
        check_choice("plan_gradient", self.plan_gradient, PLAN_GRADIENTS)
        check_choice("target_mass", self.target_mass, ("uniform", "count"))
        if self.unique_threshold is not None and not -1 < self.unique_threshold <= 1:
            raise ValueError(
                f"unique_threshold must be a cosine in (-1, 1], got {self.unique_threshold}; pass "
                "None to keep all tokens apart"
            )
        check_positive("position_width", self.position_width)
        check_at_least_zero("position_prior", self.position_prior)
        if self.rho_target is not None and not (
            math.isfinite(self.rho_target) and self.rho_target > 0
        ):
            raise ValueError(
                f"rho_target must be a finite number > 0, got {self.rho_target}; pass None for "
                "target masses that hold exactly (free masses, rho 0, collapse: see the ablation)"
            )
        check_options(gradient=self._gradient, **self._solver_options)
        if self.pad_mass is not None:
            self._check_pad_mass()

    def _check_pad_mass(self) -> None:
        if not self.pad_anchor:
            raise ValueError("pad_mass needs pad_anchor=True: without an anchor it means nothing")
        is_share = isinstance(self.pad_mass, float) and 0 < self.pad_mass < 1
        if self.pad_mass != "estimate" and not is_share:
            raise ValueError(
                f"pad_mass must be None, 'estimate' or a number in (0, 1), got {self.pad_mass!r}"
            )

    @property
    def _gradient(self) -> str:
        """What the solver calls plan_gradient."""
        return "envelope" if self.plan_gradient == "stop" else self.plan_gradient

    @property
    def _solver_options(self) -> dict[str, Any]:
        return {
            "epsilon": self.epsilon,
            "tol": self.tol,
            "max_iter": self.max_iter,
            "rho_b": self.rho_target,
            "method": self.method,
        }

    def problem(self, pair: SpeechTextPair) -> TransportProblem:
        """Find targets, masses and prior of a pair.

        Raises:
            ValueError: pad_anchor is True and the pair has no pad_embedding.
        """
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
        mass = target_mass(targets, self.target_mass == "count", dtype)
        if self.pad_mass == "estimate":
            mass = with_anchor_mass(mass, targets, estimated_pad_mass(speech, frame_mask, targets))
        elif self.pad_mass is not None:
            mass = with_anchor_mass(
                mass, targets, torch.full_like(mass[:, :1], float(self.pad_mass))
            )
        return TransportProblem(targets, source_mass, mass, prior)

    def solve(self, pair: SpeechTextPair, with_gradient: bool = True) -> SolvedPlan:
        """Solve the transport problem of each utterance of a pair.

        Args:
            pair: the pair.
            with_gradient: False makes no graph, whatever plan_gradient is.

        Raises:
            ValueError: pad_anchor is True and the pair has no pad_embedding.
        """
        problem = self.problem(pair)
        with torch.set_grad_enabled(torch.is_grad_enabled() and with_gradient):
            moved = cosine_transport(
                pair.speech,
                problem.targets.embeddings.to(pair.speech.dtype),
                problem.source_mass,
                problem.target_mass,
                prior=problem.prior,
                gradient=self._gradient,
                **self._solver_options,
            )
        return SolvedPlan(moved.plan, moved.cost, moved.value, problem.targets, moved.result)


def target_mass(
    targets: Targets, by_count: bool = False, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "batch targets"]:
    """The masses b of the targets, summing to 1; 0 at padding.

    Args:
        targets: the unique targets.
        by_count: in proportion to the tokens that share a target, in place of 1/m each.
        dtype: of the masses.
    """
    weight = (targets.counts() if by_count else targets.mask).to(dtype)
    return weight / weight.sum(1, keepdim=True)


def with_anchor_mass(
    mass: Float[Tensor, "batch targets"], targets: Targets, anchor_mass: Float[Tensor, "batch 1"]
) -> Float[Tensor, "batch targets"]:
    """Give the pad anchor a mass of its own, in (0, 1), and the tokens the rest in proportion."""
    tokens = torch.where(targets.anchor, 0.0, mass)
    tokens = tokens / tokens.sum(1, keepdim=True)
    changed = torch.where(targets.anchor, anchor_mass.to(mass.dtype), tokens * (1 - anchor_mass))
    return torch.where(targets.anchor.any(1, keepdim=True), changed, mass)


@torch.no_grad()
def estimated_pad_mass(
    speech: Float[Tensor, "batch frames dim"],
    frame_mask: Bool[Tensor, "batch frames"],
    targets: Targets,
) -> Float[Tensor, "batch 1"]:
    """(k + 1)/(n + m), where k of the n frames have the anchor as their nearest of m targets."""
    cost = cosine_cost(speech, targets.embeddings)
    nearest = cost.masked_fill(~targets.mask.unsqueeze(1), math.inf).argmin(2)
    is_pad = targets.anchor.gather(1, nearest) & frame_mask
    num_cells = frame_mask.sum(1, keepdim=True) + targets.mask.sum(1, keepdim=True)
    return (is_pad.sum(1, keepdim=True) + 1).to(cost.dtype) / num_cells
