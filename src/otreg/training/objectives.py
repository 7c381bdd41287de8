"""From a stage's objectives by name to weighted terms, and from a batch to the pair they read."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from otreg.objectives import build_objective
from otreg.pair import SpeechTextPair
from otreg.training.config import ObjectiveConfig
from otreg.training.yaml_config import ConfigError

if TYPE_CHECKING:
    from otreg.objectives import AlignmentOutput

__all__ = ["WeightedObjective", "build_objectives", "speech_text_pair"]


@dataclass(frozen=True)
class WeightedObjective:
    """An objective and how much of it the loss holds.

    Args:
        objective: called with a `SpeechTextPair`, returns an `AlignmentOutput` whose loss is
            (batch,).
        weight: its coefficient after the warm-up.
        warmup_fraction: share of the optimiser steps over which the weight rises linearly from 0.
    """

    objective: Callable[[SpeechTextPair], AlignmentOutput]
    weight: float
    warmup_fraction: float = 0.0

    def weight_at(self, step: int, num_steps: int) -> float:
        """The coefficient at an optimiser step, w * min(1, step / (warmup_fraction * num_steps)).

        Args:
            step: optimiser steps done, from 0.
            num_steps: optimiser steps in the stage.
        """
        warmup_steps = self.warmup_fraction * num_steps
        return self.weight if warmup_steps <= 0 else self.weight * min(1.0, step / warmup_steps)


def build_objectives(
    configs: Mapping[str, ObjectiveConfig], *, dim: int, vocab_size: int, seed: int
) -> dict[str, WeightedObjective]:
    """Build the objectives of a stage.

    Parameters of an objective (a CTC head) are drawn from a random stream of their own, so that
    an arm with such an objective sees the same data order and dropout as one without.

    Args:
        configs: by name, without cross-entropy and without weights of 0.
        dim: width of the language model's embeddings.
        vocab_size: rows of its embedding table.
        seed: of the objectives' own parameters.

    Raises:
        ConfigError: an unknown name or option, or a callable that cannot be imported.
    """
    built = {}
    for name, config in configs.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed((seed + zlib.crc32(name.encode())) % 2**32)
            try:
                objective = build_objective(
                    config.type or name, config.options, dim=dim, vocab_size=vocab_size
                )
            except (TypeError, ValueError) as error:
                raise ConfigError(f"objective {name!r}: {error}") from error
        built[name] = WeightedObjective(objective, config.weight, config.warmup_fraction)
    return built


def speech_text_pair(
    model: nn.Module,
    outputs: Mapping[str, Any],
    *,
    text_ids: Tensor,
    text_mask: Tensor,
) -> SpeechTextPair:
    """The pair that objectives compare: the model's speech embeddings and its token embeddings.

    No gradient reaches the token embeddings: the language model's vocabulary is the fixed target.

    Args:
        model: a `SpeechLMForConditionalGeneration`.
        outputs: its outputs for the batch; speech_embeds (batch, frames, dim) carries the gradient,
            speech_mask (batch, frames) is True at real frames.
        text_ids: (batch, tokens) long, the transcripts' tokens alone.
        text_mask: (batch, tokens) bool, True = real.
    """
    table = model.embedding_table().detach()  # type: ignore[operator]  # (vocab, dim)
    text_ids = text_ids.masked_fill(~text_mask, 0)  # the padding's id may lie outside the table
    return SpeechTextPair(
        speech=outputs["speech_embeds"],
        text=table[text_ids],
        speech_mask=outputs["speech_mask"],
        text_mask=text_mask,
        token_ids=text_ids,
        pad_embedding=model.pad_embedding().detach(),  # type: ignore[operator]
        embedding_table=table,
    )
