"""What every alignment objective returns, and how it reads a pair."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from otreg.objectives.targets import Targets
from otreg.pair import SpeechTextPair


@dataclass(frozen=True)
class AlignmentOutput:
    """The outcome of an objective on a batch.

    Args:
        loss: (batch,) one loss per utterance, carrying the gradient.
        plan: (batch, frames, targets) the transport plan; None for objectives without one.
        terms: the loss's parts and diagnostics by name, each (batch,) and detached: to log, not to
            train on.
        targets: the unique targets that are the plan's columns; None for objectives without a plan.
        converged: (batch,) whether the solver reached its tolerance; None for objectives without
            one.
    """

    loss: Tensor
    plan: Tensor | None = None
    terms: dict[str, Tensor] = field(default_factory=dict)
    targets: Targets | None = None
    converged: Tensor | None = None


def real_speech(pair: SpeechTextPair) -> tuple[Tensor, Tensor]:
    """The pair's speech (batch, frames, dim), zero at padding, with its mask (batch, frames)."""
    mask = pair.speech_mask
    assert mask is not None  # SpeechTextPair fills masks in
    return torch.where(mask.unsqueeze(-1), pair.speech, 0.0), mask
