"""What a stage does to a model before it trains, and a run to it at its end; ours and those of others."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import torch
from torch import nn

from otreg.integrations import parts as foreign
from otreg.model import SpeechLMForConditionalGeneration, lora, set_trainable
from otreg.training.building import set_compression
from otreg.training.config import RunConfig, StageConfig
from otreg.training.yaml_config import ConfigError

__all__ = ["enter_stage", "finish", "frozen_modules"]

logger = logging.getLogger(__name__)


def enter_stage(config: RunConfig, stage: StageConfig, model: Any) -> None:
    """Make the model what the stage trains: LoRA, trainable groups, compression and snap.

    Raises:
        ConfigError: LoRA without its settings, or settings that a model of others does not have.
    """
    options = _lora_options(config) if "lora" in stage.train else {}
    if isinstance(model, SpeechLMForConditionalGeneration):
        if options and model.config.lora is None:
            model.add_lora(**options)
        set_compression(model, stage.model)
        count = set_trainable(model, stage.train)
        if "adapter" in stage.train:  # updates are lost in the rounding of bfloat16 weights
            model.multi_modal_projector.float()
        updates = lora.lora_parameters(model.language_model)
    else:
        if stage.model:
            raise ConfigError(
                f"stage {stage.name!r}: model.{next(iter(stage.model))} is of otreg's own model; "
                f"{type(model).__name__} has none"
            )
        layers = foreign.language_layers(model)
        if options and not lora.lora_parameters(layers):
            foreign.add_lora(model, options)
        count = foreign.set_trainable(model, stage.train)
        _warn_of_rounding(model, stage)
        updates = lora.lora_parameters(layers)
    if "lora" in stage.train:
        for parameter in updates:
            parameter.data = parameter.data.float()
    logger.info("stage %s trains %s: %d parameters", stage.name, ", ".join(stage.train), count)


def _lora_options(config: RunConfig) -> dict[str, Any]:
    if config.model.lora is None:
        raise ConfigError("a stage trains 'lora', but model.lora is missing")
    return dataclasses.asdict(config.model.lora)  # type: ignore[call-overload,no-any-return]


def finish(model: Any) -> None:
    """Merge LoRA, and give every weight the model's type, in evaluation mode."""
    if isinstance(model, SpeechLMForConditionalGeneration):
        model.merge_lora()
        model.multi_modal_projector.to(model.get_input_embeddings().weight.dtype)
    else:
        foreign.merge_lora(model)
    model.eval()


def frozen_modules(model: nn.Module) -> list[nn.Module]:
    """The outermost modules of which no parameter trains."""
    found: list[nn.Module] = []

    def visit(module: nn.Module) -> None:
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            found.append(module)
            return
        for child in module.children():
            visit(child)

    visit(model)
    return found


def _warn_of_rounding(model: Any, stage: StageConfig) -> None:
    whole = set(stage.train) - {"lora"}
    narrow = {p.dtype for p in model.parameters() if p.requires_grad} - {torch.float32}
    if whole and narrow:
        logger.warning(
            "stage %s trains weights in %s, where small updates are lost in rounding; pass "
            "model.dtype=float32 and, on a GPU, trainer.bf16=true",
            stage.name,
            ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in narrow)),
        )
