"""What families of speech language models differ in; most differ in nothing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from otreg.integrations.frames import gemma3n_rows, spans_of_ultravox, voxtral_rows

TrueRows = Callable[[nn.Module, Mapping[str, Any], Tensor], Tensor]


class UnsupportedModelError(ValueError):
    """A model that cannot be read; the message says why."""


def _placeholder(config: Any) -> int | None:
    for name in ("audio_token_id", "audio_token_index"):
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    return None


@dataclass(frozen=True)
class Family:
    """How a family is read.

    Args:
        audio_token_id: the placeholder that each row of speech takes the place of.
        merged: whose output is the merged rows; None = they enter `get_decoder()` as its first
            argument or its `inputs_embeds`.
        clips: where the rows of speech are, in families that do not say it by a placeholder: batch ->
            (clips, 3) row, first column and number.
        text_behind: the token behind which an answer's transcript begins; None = it is all of it.
        true_rows: how many of a clip's rows are audio, where placeholders stand for padding, too:
            (model, batch, clips) -> (clips,); None = all.
        adapter: modules between encoder and language model, within `model.model`; empty = the first
            that has a usual name.
        encoder: likewise; what is the adapter's in it is not the encoder's.
        beside: modules of the decoder that are neither audio nor language, such as vision.
    """

    audio_token_id: Callable[[Any], int | None] = _placeholder
    merged: Callable[[Any], nn.Module] | None = None
    clips: Callable[[Mapping[str, Any]], Tensor] | None = None
    text_behind: str | None = None
    true_rows: TrueRows | None = None
    adapter: tuple[str, ...] = ()
    encoder: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


COMMON = Family()
"""Placeholders by `audio_token_id`, merged rows handed to `get_decoder()` as `inputs_embeds`."""

FAMILIES: dict[str, Family] = {
    "gemma3n": Family(true_rows=gemma3n_rows),
    "phi4_multimodal": Family(
        audio_token_id=lambda config: int(config.audio_config.audio_token_id),
        merged=lambda model: model.model.embed_tokens_extend,
        adapter=(
            "embed_tokens_extend.audio_embed.up_proj_for_speech",
            "embed_tokens_extend.audio_embed.down_proj_for_speech",
        ),
        encoder=("embed_tokens_extend.audio_embed.encoder",),
        beside=("embed_tokens_extend",),
    ),
    "qwen2_5_omni_thinker": Family(adapter=("audio_tower.proj",)),
    "qwen3_omni_moe_thinker": Family(adapter=("audio_tower.proj1", "audio_tower.proj2")),
    # Its answers read "language English<asr_text>the words".
    "qwen3_asr": Family(text_behind="<asr_text>"),
    "voxtral": Family(true_rows=voxtral_rows),
}

ULTRAVOX = Family(clips=spans_of_ultravox)
"""Ultravox's code on the Hub: its placeholders are end tokens, and the batch says where they are."""

_NO_PLACEHOLDERS = {
    "kyutai_speech_to_text": "it adds audio codes to every position of the text stream",
    "moshi": "it adds audio codes to every position of the text stream",
    "voxtral_realtime": "it adds audio to every position of the text stream",
}


def family_of(model: Any, audio_token_id: int | None = None) -> Family:
    """How a model is read.

    Args:
        model: a Hugging Face model, without wrappers.
        audio_token_id: the placeholder, where the configuration does not say it.

    Raises:
        UnsupportedModelError: its audio does not take the place of placeholder tokens, or the
            placeholder is not known.
    """
    config = getattr(model, "config", None)
    kind = getattr(config, "model_type", None)
    name = type(model).__name__
    if kind is None:
        raise UnsupportedModelError(
            f"attach() takes a Hugging Face model with a configuration, got {name}; in a loop of your "
            "own, make a pair by otreg.integrations.pair_from_labels"
        )
    if kind in _NO_PLACEHOLDERS:
        raise UnsupportedModelError(
            f"{name} cannot be attached to: {_NO_PLACEHOLDERS[kind]}, so no row of the decoder is "
            "speech alone; make a pair from the rows that you mean by "
            "otreg.integrations.pair_from_labels"
        )
    if hasattr(model, "thinker"):
        raise UnsupportedModelError(
            f"{name} holds several models; attach to the one that reads speech: attach(model.thinker, …)"
        )
    if "audio_token_start_idx" in inspect.signature(model.forward).parameters:
        return ULTRAVOX
    family = FAMILIES.get(kind, COMMON)
    if audio_token_id is not None:
        family = replace(family, audio_token_id=lambda config: audio_token_id)
    if family.audio_token_id(config) is None:
        raise UnsupportedModelError(
            f"{name} has no audio_token_id in its configuration, so the rows of speech cannot be "
            "found; pass attach(…, audio_token_id=…), or make a pair by "
            "otreg.integrations.pair_from_labels"
        )
    return family


def unwrapped(model: Any) -> Any:
    """The Hugging Face model inside DistributedDataParallel, torch.compile and PEFT."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif hasattr(model, "get_base_model"):
            model = model.get_base_model()
        else:
            return model


def merged_rows(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """What a decoder is called with.

    Raises:
        UnsupportedModelError: no embeddings.
    """
    rows = kwargs.get("inputs_embeds")
    if rows is None:
        rows = next((a for a in args if torch.is_tensor(a) and a.is_floating_point()), None)
    if rows is None:
        raise UnsupportedModelError(
            f"{type(module).__name__} was called without inputs_embeds, so the rows of speech cannot "
            "be read there; this model's family is not known to otreg"
        )
    return rows
