"""The configuration of a run: frozen dataclasses, read from YAML with dotted overrides.

A recipe is data: which model, which manifests, and a list of stages, each saying what trains, on
which objectives and how. It may inherit from another (`otreg.training.inheritance`). Unknown keys
are refused with the nearest name. Relative paths mean relative to the current directory, in the file
as on the command line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import Field, Strict

from otreg.model.towers import check_groups
from otreg.names import nearest
from otreg.training.field_types import (
    Count,
    Fraction,
    Name,
    NonNegative,
    Number,
    check_objective_name,
    check_tower,
    check_trainer_keys,
)
from otreg.training.inheritance import RECIPES, find_configuration, read_configuration
from otreg.training.sections import (
    OF_A_LOADED_MODEL,
    STAGE_MODEL_KEYS,
    DataConfig,
    InterleaveConfig,
    LoraConfig,
    ModelConfig,
    WatchConfig,
    frozen,
)
from otreg.training.yaml_config import (
    ConfigError,
    apply_overrides,
    check_key,
    check_switched_off,
    describe_errors,
    dump_yaml,
)

__all__ = [
    "CROSS_ENTROPY",
    "STAGE_MODEL_KEYS",
    "ConfigError",
    "DataConfig",
    "InterleaveConfig",
    "LoraConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "RunConfig",
    "StageConfig",
    "WatchConfig",
    "config_from_dict",
    "config_to_dict",
    "load_config",
    "save_config",
]

CROSS_ENTROPY = "cross_entropy"
"""The objective every stage has: cross-entropy on the transcript, with weight 1 unless given."""


@frozen
class ObjectiveConfig:
    """One term of a stage's loss.

    Args:
        weight: its coefficient; 0 leaves it out altogether.
        type: the objective's registered name (default: the key it stands under), or
            `python.module:callable` for one of your own: called with the options, it returns the
            objective.
        warmup_fraction: share of the stage's steps over which the weight rises linearly from 0.
        layer: hidden states of the language model that an objective on pairs compares (0 = what
            enters it); None = the adapter's outputs and the token embeddings.
        options: keyword arguments of the objective.
    """

    weight: NonNegative
    type: Name | None = None
    warmup_fraction: Fraction = 0.0
    layer: Annotated[int, Strict(), Field(ge=0)] | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@frozen
class StageConfig:
    """One stage: what trains, on which objectives, and how.

    Args:
        name: names the stage's folder and its log entries.
        train: the groups that train, of `adapter`, `lora`, `language_model`, `audio_tower`.
        objectives: by name; `cross_entropy` has weight 1 unless it is listed.
        model: compression and snap from this stage on (null switches one off).
        steps: optimiser steps; or
        epochs: passes over the data.
        batch_size: utterances in a micro-batch; or
        max_tokens: language-model positions in a micro-batch, padding included.
        gradient_accumulation_steps: micro-batches in an optimiser step.
        learning_rate: peak.
        optimizer: a name of transformers' `optim`.
        scheduler: a name of transformers' `lr_scheduler_type`.
        warmup_fraction: share of the steps over which the learning rate rises.
        weight_decay: as in transformers.
        max_grad_norm: as in transformers.
        trainer: further `transformers.TrainingArguments`, such as `bf16: true`.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    train: Annotated[list[Name], Field(min_length=1)]
    objectives: dict[Name, ObjectiveConfig] = dataclasses.field(default_factory=dict)
    model: dict[Name, Number | None] = dataclasses.field(default_factory=dict)
    steps: Count | None = None
    epochs: Annotated[Number, Field(gt=0)] | None = None
    batch_size: Count | None = None
    max_tokens: Count | None = None
    gradient_accumulation_steps: Count = 1
    learning_rate: Annotated[Number, Field(gt=0)]
    optimizer: Name = "adamw_torch"
    scheduler: Name = "cosine"
    warmup_fraction: Annotated[Number, Field(ge=0, lt=1)] = 0.05
    weight_decay: NonNegative = 0.0
    max_grad_norm: NonNegative = 1.0
    trainer: dict[Name, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(f"stage {self.name!r}: give either steps or epochs (exactly one)")
        if (self.batch_size is None) == (self.max_tokens is None):
            raise ValueError(
                f"stage {self.name!r}: give either batch_size or max_tokens (exactly one)"
            )
        try:
            check_groups(self.train)
        except ValueError as error:
            raise ValueError(f"stage {self.name!r}: {error}") from error
        for key in self.model:
            check_key(key, STAGE_MODEL_KEYS, "model")
        self._check_objectives()
        check_trainer_keys(self.trainer)

    def active(self) -> dict[str, ObjectiveConfig]:
        """The objectives that have a weight, cross-entropy first (with weight 1 unless listed)."""
        plain = ObjectiveConfig(weight=1.0)  # type: ignore[call-arg]
        listed = {CROSS_ENTROPY: plain} | self.objectives
        return {name: objective for name, objective in listed.items() if objective.weight > 0}

    def _check_objectives(self) -> None:
        from otreg.objectives import OBJECTIVES

        for name, objective in self.objectives.items():
            kind = objective.type or name
            where = f"stage {self.name!r}: objective {name!r}"
            check_objective_name(name)
            if name == CROSS_ENTROPY and kind != CROSS_ENTROPY:
                raise ValueError(f"{where} cannot be of type {kind!r}; use another name for it")
            if ":" not in kind and kind not in OBJECTIVES:
                raise ValueError(
                    f"{where}: unknown objective {kind!r}; {nearest(kind, OBJECTIVES)} "
                    "(one of your own: type: python.module:callable)"
                )
        if not self.active():
            raise ValueError(f"stage {self.name!r}: every objective has weight 0, nothing to train")


@frozen
class RunConfig:
    """A run: one model through a list of stages.

    Args:
        seed: of initial weights, data order and dropout, everywhere.
        model: what to start from.
        data: what to read.
        stages: in order; they share one model in memory.
        watch: what is measured and shown while it trains; None = the run's log alone.
    """

    seed: Annotated[int, Strict(), Field(ge=0, lt=2**32)] = 0
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    stages: Annotated[list[StageConfig], Field(min_length=1)]
    watch: WatchConfig | None = None

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"the name {repeated[0]!r} stands twice; name every stage apart")
        if any("lora" in stage.train for stage in self.stages) and self.model.lora is None:
            raise ValueError(
                "a stage trains 'lora', but model.lora is missing: give it, e.g. {r: 8}"
            )
        if self.data.cache_encoder and any("audio_tower" in stage.train for stage in self.stages):
            raise ValueError(
                "data.cache_encoder needs a frozen encoder, but a stage trains 'audio_tower': "
                "drop one of the two"
            )
        for stage in self.stages:
            if self.data.streams and stage.steps is None:
                raise ValueError(
                    f"stage {stage.name!r}: data.train is a stream, whose length is not known; give "
                    "steps in place of epochs"
                )
            if self.data.streams and stage.batch_size is None:
                raise ValueError(
                    f"stage {stage.name!r}: data.train is a stream, whose lengths are not known; give "
                    "batch_size in place of max_tokens"
                )

    def check_ready(self) -> None:
        """Refuse what can be seen to be missing before anything is loaded.

        Raises:
            ConfigError: no model or no data, or conflicting ways to name the model.
        """
        model = self.model
        if model.init is not None:
            fixed = [
                field.name
                for field in dataclasses.fields(ModelConfig)  # type: ignore[arg-type]
                if field.name not in (*OF_A_LOADED_MODEL, *STAGE_MODEL_KEYS)
                and getattr(model, field.name) is not None
            ]
            if fixed:
                raise ConfigError(
                    f"model.{fixed[0]} cannot change the model that model.init loads: "
                    "drop one of the two"
                )
        else:
            for name in ("audio_tower", "language_model"):
                value = getattr(model, name)
                if value is not None:
                    check_tower(name, value)
                else:
                    raise ConfigError(
                        f"model.{name} is missing: give a folder or a Hub id, e.g. "
                        f"model.{name}=PATH (or model.init=RUN to go on from an earlier run)"
                    )
        if not self.data.train:
            raise ConfigError("data.train is missing: give manifests, e.g. data.train=train.jsonl")
        if self.data.root is not None and not self.data.root.is_dir():
            raise ConfigError(f"data.root: no such folder: {str(self.data.root)!r}")
        for source in (*self.data.train, *self.data.validation):
            path = source if isinstance(source, Path) else Path(source["path"])
            if isinstance(source, dict) and source["type"] in ("huggingface", "webdataset"):
                continue  # a Hub id or a pattern is none of our files
            if not path.is_file() and not (isinstance(source, dict) and path.is_dir()):
                raise ConfigError(
                    f"data: no such manifest: {str(path)!r} "
                    "(relative paths start at the current directory)"
                )


def config_from_dict(data: Any, *, source: str | Path = "configuration") -> RunConfig:
    """Validate plain data as a `RunConfig`.

    Raises:
        ConfigError: naming every wrong key, with the nearest known name where a key is unknown.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(
            f"{source}: expected a mapping with the keys seed, model, data, stages, "
            f"received {type(data).__name__}"
        )
    for key in data:
        if not isinstance(key, str):
            raise ConfigError(f"{source}: expected a name as key, received {key!r}")
    try:
        return pydantic.TypeAdapter(RunConfig).validate_python(dict(data))
    except pydantic.ValidationError as error:
        raise describe_errors(error, RunConfig, source) from None


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML configuration, what it inherits, and apply dotted overrides.

    Args:
        path: the YAML file, or the name of a shipped recipe; see `otreg.training.inheritance`.
        overrides: `key=value` strings, such as `stages.1.objectives.otreg.weight=0`.

    Returns:
        The validated configuration.

    Raises:
        ConfigError: the file is missing or not YAML, or a key or value is wrong.
    """
    path = find_configuration(path, RECIPES)
    data = read_configuration(path, RECIPES)
    if not isinstance(data, Mapping):
        return config_from_dict(data, source=path)
    config = config_from_dict(apply_overrides(data, overrides), source=path)
    check_switched_off(data, overrides)
    return config


def config_to_dict(config: RunConfig) -> dict[str, Any]:
    """The resolved configuration as plain data: every default filled in, paths as strings."""
    data: dict[str, Any] = pydantic.TypeAdapter(RunConfig).dump_python(config, mode="json")
    return data


def save_config(config: RunConfig, path: str | Path) -> None:
    """Write the resolved configuration as YAML; `load_config` reads it back to an equal object."""
    Path(path).write_text(dump_yaml(config_to_dict(config)), encoding="utf-8")
