"""Voxtral Realtime: speech is added to every token's embedding, without placeholders: the hooks refuse it.

Its processor needs mistral-common; `load` gives its feature extractor instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import (
    AutoFeatureExtractor,
    AutoModelForMultimodalLM,
    VoxtralRealtimeConfig,
    VoxtralRealtimeFeatureExtractor,
    VoxtralRealtimeForConditionalGeneration,
)

from families.base import TinyFamily, save_random

NUM_MEL_BINS = 16


def save(folder: Path) -> None:
    config = VoxtralRealtimeConfig(
        audio_config={
            "num_mel_bins": NUM_MEL_BINS,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "head_dim": 8,
        },
        text_config={
            "vocab_size": 64,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
        },
    )
    extractor = VoxtralRealtimeFeatureExtractor(feature_size=NUM_MEL_BINS)
    save_random(folder, VoxtralRealtimeForConditionalGeneration, config, extractor)


def load(folder: Path) -> tuple[Any, Any]:
    model = AutoModelForMultimodalLM.from_pretrained(folder)
    return model, AutoFeatureExtractor.from_pretrained(folder)


FAMILY = TinyFamily(
    name="Voxtral Realtime",
    model_type="voxtral_realtime",
    save=save,
    load=load,
)
