"""From a stage's objectives by name to weighted objectives."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from otreg.objectives import Objective, build_objective
from otreg.objectives.options import check_at_least_zero
from otreg.training.config import ObjectiveConfig
from otreg.training.yaml_config import ConfigError

__all__ = ["WeightedObjective", "build_objectives"]


@dataclass(frozen=True)
class WeightedObjective:
    """An objective and how much of it the loss holds.

    Args:
        objective: see `otreg.objectives.base.Objective`.
        weight: its coefficient after the warm-up.
        warmup_fraction: share of the optimiser steps over which the weight rises linearly from 0.

    Raises:
        ValueError: a weight that is not a finite number >= 0, a share outside of [0, 1].
    """

    objective: Objective
    weight: float
    warmup_fraction: float = 0.0

    def __post_init__(self) -> None:
        check_at_least_zero("weight", self.weight)
        if not 0 <= self.warmup_fraction <= 1:
            raise ValueError(
                f"warmup_fraction must be a share of the steps in [0, 1], got {self.warmup_fraction}"
            )

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
        configs: by name, without weights of 0.
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
                    config.type or name,
                    config.options,
                    layer=config.layer,
                    dim=dim,
                    vocab_size=vocab_size,
                )
            except (TypeError, ValueError) as error:
                raise ConfigError(f"objective {name!r}: {error}") from error
        built[name] = WeightedObjective(objective, config.weight, config.warmup_fraction)
    return built
