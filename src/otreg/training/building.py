"""From the configuration's `model` to a model and its processor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from otreg.integrations.loading import load_speech_lm
from otreg.model import SpeechLMConfig, SpeechLMForConditionalGeneration, SpeechLMProcessor
from otreg.training.config import STAGE_MODEL_KEYS, ModelConfig
from otreg.training.yaml_config import ConfigError

__all__ = ["build_model", "set_compression"]

_PROMPT_KEYS = ("prompt_template", "separator", "instruction")
_TOWER_KEYS = (
    "adapter_type",
    "adapter_stack",
    "adapter_hidden_size",
    "adapter_layers",
    "adapter_kernel",
    "adapter_ffn_ratio",
    "adapter_dropout",
    "short_mel",
)


def build_model(config: ModelConfig) -> tuple[Any, Any]:
    """Join the towers by a new adapter, or load an earlier model, or one of others.

    Args:
        config: what to start from; checked by `RunConfig.check_ready`.

    Returns:
        The model and its processor.

    Raises:
        ConfigError: a tower cannot be loaded, or an option is out of its range.
    """
    if config.init is not None:
        model, processor = load_speech_lm(
            config.init,
            dtype=config.dtype,
            trust_remote_code=config.trust_remote_code,
            request=config.instruction,
            request_options=config.request_options,
        )
        compression = _given(config, STAGE_MODEL_KEYS)
        if isinstance(model, SpeechLMForConditionalGeneration):
            set_compression(model, compression)
        elif compression:
            raise ConfigError(
                f"model.{next(iter(compression))} is of otreg's own model; {type(model).__name__} "
                "has none: leave it out"
            )
        return model, processor
    options = _given(config, (*_TOWER_KEYS, *STAGE_MODEL_KEYS))
    try:
        model = SpeechLMForConditionalGeneration.from_towers(
            config.audio_tower, config.language_model, dtype=config.dtype or "auto", **options
        )
        processor = SpeechLMProcessor.from_config(
            model.config, config.audio_tower, config.language_model, **_given(config, _PROMPT_KEYS)
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot join audio_tower {config.audio_tower!r} and language_model "
            f"{config.language_model!r}: {error}"
        ) from error
    return model, processor


def set_compression(
    model: SpeechLMForConditionalGeneration, values: Mapping[str, float | None]
) -> None:
    """Change compression and snap of a model in place.

    Args:
        model: the model.
        values: of `snap`, `merge_threshold`, …; None switches a threshold off.

    Raises:
        ConfigError: a value out of its range, or frames to drop and no pad embedding.
    """
    if not values:
        return
    try:
        SpeechLMConfig.from_dict(model.config.to_dict() | dict(values))
    except ValueError as error:
        raise ConfigError(f"model: {error}") from error
    if (
        values.get("drop_threshold") is not None
        and float(model.pad_embedding().detach().norm()) < 1e-3
    ):
        raise ConfigError(
            f"drop_threshold is set, but the embedding of pad_token_id {model.config.pad_token_id} "
            "is zero, so no frame is ever alike; leave drop_threshold out or give it a vector"
        )
    for key, value in values.items():
        setattr(model.config, key, value)


def _given(config: ModelConfig, names: tuple[str, ...]) -> dict[str, Any]:
    """The values that the configuration gives; None leaves the model's own default."""
    values = {name: getattr(config, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}
