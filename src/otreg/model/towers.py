"""Pretrained towers: loading them, joining them, and choosing what trains."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    WhisperModel,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from otreg.model.configuration import SpeechLMConfig, first_id
from otreg.model.embeddings import embedding_rows, median_norm
from otreg.model.lora import lora_parameters
from otreg.names import nearest

logger = logging.getLogger(__name__)

TRAINABLE_GROUPS = ("adapter", "lora", "language_model", "audio_tower")
_PARTS = {
    "adapter": "multi_modal_projector",
    "language_model": "language_model",
    "audio_tower": "audio_tower",
}
"""Groups that are parts of a model, and its attributes for them."""
# Parameters that a checkpoint may lack without harm: used only by masked pre-training.
_OPTIONAL_WEIGHTS = ("masked_spec_embed",)


def load_audio_tower(source: str | Path, **loading: Any) -> PreTrainedModel:
    """Load a pretrained speech encoder; of a Whisper checkpoint, its encoder alone.

    Args:
        source: Hub id or folder, in safetensors.
        loading: dtype, device_map, trust_remote_code, as for from_pretrained.

    Returns:
        The encoder.

    Raises:
        ValueError: the checkpoint lacks some of the encoder's weights.
    """
    trust = loading.get("trust_remote_code", False)
    config = AutoConfig.from_pretrained(source, trust_remote_code=trust)
    if config.model_type != "whisper":
        return _load(AutoModel, source, loading)
    if "WhisperEncoder" in (config.architectures or []):
        return _load(WhisperEncoder, source, loading)
    return _load(WhisperModel, source, loading).get_encoder()


def load_language_model(source: str | Path, **loading: Any) -> PreTrainedModel:
    """Load a pretrained causal language model; arguments as for `load_audio_tower`."""
    return _load(AutoModelForCausalLM, source, loading)


def _load(auto_class: Any, source: str | Path, loading: dict[str, Any]) -> PreTrainedModel:
    model, info = auto_class.from_pretrained(
        source, use_safetensors=True, output_loading_info=True, **loading
    )
    missing = [k for k in info["missing_keys"] if not k.endswith(_OPTIONAL_WEIGHTS)]
    if missing or info["mismatched_keys"]:
        raise ValueError(
            f"{source} is no whole checkpoint of {type(model).__name__}: missing "
            f"{sorted(missing)[:3]}, of another shape {sorted(info['mismatched_keys'])[:3]}; give "
            "the folder or Hub id of such a model"
        )
    return model


def build_from_towers(
    cls: Any,
    audio_tower: Any,
    language_model: Any,
    loading: dict[str, Any],
    options: dict[str, Any],
) -> Any:
    """Do the work of `SpeechLMForConditionalGeneration.from_towers`."""
    unknown = options.keys() - SpeechLMConfig.__dataclass_fields__.keys()
    if unknown:
        name = sorted(unknown)[0]
        raise ValueError(
            f"unknown option {name!r}; {nearest(name, SpeechLMConfig.__annotations__)} (the options "
            "are the fields of SpeechLMConfig)"
        )
    ids: dict[str, Any] = {
        k: options.pop(k, None) for k in ("pad_token_id", "bos_token_id", "eos_token_id")
    }
    tokenizer = None
    if not isinstance(language_model, nn.Module):
        tokenizer = AutoTokenizer.from_pretrained(
            language_model, trust_remote_code=loading["trust_remote_code"]
        )
        language_model = load_language_model(language_model, **loading)
    if not isinstance(audio_tower, nn.Module):
        audio_tower = load_audio_tower(audio_tower, **loading)
    ids = _special_ids(ids, tokenizer, language_model)
    table = embedding_rows(language_model.get_input_embeddings()).detach()
    options.setdefault("adapter_output_norm", median_norm(table))
    # An encoder that was trained at true lengths says so in its configuration (`otreg miniature`).
    options.setdefault("short_mel", bool(getattr(audio_tower.config, "short_mel", False)))
    config = cls.config_class(
        # Copies: a configuration resets the attention implementation of the ones inside it.
        audio_config=copy.deepcopy(audio_tower.config),
        text_config=copy.deepcopy(language_model.config),
        dtype=table.dtype,
        **ids,
        **options,
    )
    if config.audio_token_id in ids.values():
        raise ValueError(f"audio_token_id {config.audio_token_id} is also a special token's id")
    if config.drop_threshold is not None and float(table[ids["pad_token_id"]].norm()) < 1e-3:
        raise ValueError(
            f"drop_threshold is set but the embedding of pad_token_id {ids['pad_token_id']} is "
            "zero, so no frame is ever alike; choose another pad_token_id or give it a vector"
        )
    model = cls(config, audio_tower=audio_tower, language_model=language_model)
    model.multi_modal_projector.to(table.device, table.dtype)
    own = language_model.generation_config
    stops = own.eos_token_id if own is not None else None
    stops = [stops] if isinstance(stops, int) else list(stops or [])
    stops += [config.eos_token_id] if config.eos_token_id not in stops else []
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=stops,
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
    )
    return model.eval()


def _special_ids(
    ids: dict[str, Any], tokenizer: Any, language_model: PreTrainedModel
) -> dict[str, Any]:
    """Take each id from the caller, the tokenizer, the model's configuration, in that order."""
    sources = [tokenizer, language_model.config, getattr(language_model, "generation_config", None)]
    found: dict[str, Any] = {}
    for name, given in ids.items():
        candidates = [given, *(first_id(getattr(source, name, None)) for source in sources)]
        found[name] = next((value for value in candidates if value is not None), None)
    if found["eos_token_id"] is None:
        raise ValueError("the language model has no eos token; pass eos_token_id=")
    if found["pad_token_id"] is None:
        found["pad_token_id"] = found["eos_token_id"]
    rows = len(embedding_rows(language_model.get_input_embeddings()))
    if int(found["pad_token_id"]) >= rows:
        raise ValueError(
            f"pad_token_id {found['pad_token_id']} has no row among {rows} embeddings; pass the id "
            "of a token in the vocabulary as pad_token_id="
        )
    return found


def is_frozen(module: nn.Module) -> bool:
    """Tell whether no parameter of a module trains."""
    return not any(p.requires_grad for p in module.parameters())


def check_groups(groups: Iterable[str]) -> None:
    """Refuse parts of a model that cannot train, or not together.

    Args:
        groups: of `TRAINABLE_GROUPS`.

    Raises:
        ValueError: an unknown group, or conflicting ones.
    """
    groups = list(groups)
    for group in groups:
        if group not in TRAINABLE_GROUPS:
            raise ValueError(f"cannot train {group!r}; {nearest(group, TRAINABLE_GROUPS)}")
    if {"lora", "language_model"} <= set(groups):
        raise ValueError(
            "'lora' and 'language_model' exclude each other: LoRA trains on frozen weights"
        )


def set_trainable(model: Any, groups: Iterable[str]) -> int:
    """Train the named parts of a model and freeze the rest of it.

    Parts attached from outside, such as the heads of objectives, are left as they are. Frozen parts
    stay in evaluation mode whatever ``model.train()`` is told.

    Args:
        model: a `SpeechLMForConditionalGeneration`, changed in place.
        groups: of "adapter", "audio_tower", "language_model" (all its weights) and "lora" (only what
            `add_lora` added).

    Returns:
        The number of parameters that now train.

    Raises:
        ValueError: an unknown group, conflicting ones, or LoRA that the model does not have.
    """
    groups = [groups] if isinstance(groups, str) else list(groups)
    check_groups(groups)
    adapters = lora_parameters(model.language_model)
    if "lora" in groups and not adapters:
        raise ValueError("cannot train 'lora': the model has none; call model.add_lora() first")
    for name, part in _PARTS.items():
        getattr(model, part).requires_grad_(name in groups)
    if "audio_tower" in groups and hasattr(model.audio_tower, "embed_positions"):
        model.audio_tower.embed_positions.requires_grad_(False)  # sinusoids, as in transformers
    for parameter in adapters:
        parameter.requires_grad_("lora" in groups or "language_model" in groups)
    model.train(model.training)
    own = [p for part in _PARTS.values() for p in getattr(model, part).parameters()]
    return sum(p.numel() for p in own if p.requires_grad)
