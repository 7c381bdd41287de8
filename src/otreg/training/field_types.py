"""The kinds of values that a configuration holds, and their checks."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, Strict

from otreg.data.sources import check_source
from otreg.training.yaml_config import ConfigError, check_key

_OWN_TRAINER_KEYS = {
    "output_dir": "it is the run folder",
    "seed": "give seed",
    "max_steps": "give steps",
    "num_train_epochs": "give epochs",
    "per_device_train_batch_size": "give batch_size",
    "gradient_accumulation_steps": "give the stage's own gradient_accumulation_steps",
    "learning_rate": "give the stage's own learning_rate",
    "optim": "give optimizer",
    "lr_scheduler_type": "give scheduler",
    "warmup_steps": "give warmup_fraction",
    "warmup_ratio": "give warmup_fraction",
    "weight_decay": "give the stage's own weight_decay",
    "max_grad_norm": "give the stage's own max_grad_norm",
    "remove_unused_columns": "the collator needs every column",
    "disable_tqdm": "give --quiet",
    "report_to": "give watch, such as watch: {to: tensorboard}",
}

_LOG_FIELDS = ("stage", "step", "epoch", "loss", "ce", "grad_norm", "learning_rate", "gap")


def _as_number(value: Any) -> Any:
    """Let a quoted "2e-6" be a number; refuse true / false, which pydantic would read as 1 / 0."""
    if isinstance(value, bool):
        raise ValueError(f"expected a number, received {value!r}")
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise ValueError(f"expected a number, received {value!r}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"expected a finite number, received {value!r}")
    return value


def _as_list(value: Any) -> Any:
    """One path, or one mapping, where a list is expected is a list of one."""
    return [value] if isinstance(value, (str, os.PathLike, Mapping)) else value


def _checked_source(value: Any) -> Any:
    """A manifest's path, or a mapping that says where other data is."""
    check_source(value)
    return value


Number = Annotated[float, BeforeValidator(_as_number)]
NonNegative = Annotated[Number, Field(ge=0)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
Count = Annotated[int, Strict(), Field(ge=1)]
Flag = Annotated[bool, Strict()]
Name = Annotated[str, Field(min_length=1)]
Trackers = Annotated[list[Literal["tensorboard", "wandb"]], BeforeValidator(_as_list)]
Sources = Annotated[
    list[Annotated[Path | dict[str, Any], BeforeValidator(_checked_source)]],
    BeforeValidator(_as_list),
]


def check_tower(name: str, value: str) -> None:
    """Refuse a folder that is not there, where the value cannot be meant as a Hub id.

    Raises:
        ConfigError: there is no such folder.
    """
    hub_id = value.count("/") <= 1 and not value.startswith((".", "/", "~"))
    if not hub_id and not Path(value).is_dir():
        raise ConfigError(
            f"model.{name}: no such folder: {value!r} (relative paths start at the current directory)"
        )


def check_objective_name(name: str) -> None:
    """Refuse the name of an objective that its log entries or its weights cannot have.

    Raises:
        ValueError: the log has a field of this name or takes it for another's, or torch cannot
            have a module of this name.
    """
    from torch import nn

    if name in _LOG_FIELDS:
        reason = f"the log has {name!r} already"
    elif name.startswith("eval_"):
        reason = "in the log, 'eval_' says that a loss is the validation's"
    elif "." in name or "/" in name:
        reason = "'/' parts an objective from its terms in the log, '.' a module from its weights"
    elif hasattr(nn.ModuleDict(), name):
        reason = f"torch's modules have {name!r} already, so its weights could not be kept there"
    else:
        return
    raise ValueError(
        f"an objective cannot have the name {name!r}: {reason}; use another, with type"
    )


def check_trainer_keys(keys: Iterable[str]) -> None:
    """Refuse a stage's trainer arguments that transformers does not know or that we set ourselves.

    Raises:
        ConfigError: the key is unknown; the nearest name is offered.
        ValueError: the key has another place in the configuration.
    """
    from transformers import TrainingArguments

    known = [field.name for field in dataclasses.fields(TrainingArguments) if field.init]
    for key in keys:
        if key in _OWN_TRAINER_KEYS:
            raise ValueError(f"trainer.{key} cannot be set here: {_OWN_TRAINER_KEYS[key]}")
        check_key(key, known, "trainer")
