"""Voxtral: Whisper's encoder over windows of 30 s, four frames side by side into an MLP, Llama.

Every chunk of 30 s fills 375 placeholders: the rows behind the true audio come from silence. The processor
takes audio only through mistral-common (`apply_transcription_request`), which the tests do without:
`_encode` writes the same request and the same features by hand, for audio of up to 30 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import (
    VoxtralConfig,
    VoxtralForConditionalGeneration,
    VoxtralProcessor,
    WhisperFeatureExtractor,
)

from families.base import SAMPLE_RATE_HZ, ReadFamily, save_random, transcript_labels
from families.qwen2_audio import (
    NUM_MEL_BINS,
    TINY_WHISPER,
    byte_tokenizer,
    load_auto,
    text_config,
)

AUDIO_TOKEN_ID = 24  # fixed in VoxtralProcessor
SAMPLES_PER_ROW = 160 * 2 * 4  # mel hop, convolution stride, frames side by side
ROWS_PER_CHUNK = 30 * SAMPLE_RATE_HZ // SAMPLES_PER_ROW


def save(folder: Path) -> None:
    tokens = ["<s>", "[INST]", "[/INST]", "[BEGIN_AUDIO]", "[TRANSCRIBE]"]
    fillers = [f"[SPECIAL_{index}]" for index in range(len(tokens) + 2, AUDIO_TOKEN_ID)]
    tokenizer = byte_tokenizer(*tokens, *fillers, "[AUDIO]", eos_token="</s>")
    extractor = WhisperFeatureExtractor(feature_size=NUM_MEL_BINS)
    config = VoxtralConfig(
        audio_config={**TINY_WHISPER, "max_source_positions": 1500},
        text_config=text_config(tokenizer),
        audio_token_id=AUDIO_TOKEN_ID,
    )
    processor = VoxtralProcessor(extractor, tokenizer)
    save_random(folder, VoxtralForConditionalGeneration, config, processor)


def batch(
    processor: Any, waveforms: Sequence[np.ndarray], transcripts: Sequence[str]
) -> dict[str, Any]:
    inputs = _encode(processor, waveforms, [f"{text}</s>" for text in transcripts], "right")
    answers = [processor.tokenizer(f"{text}</s>").input_ids for text in transcripts]
    labels = transcript_labels(inputs["input_ids"], inputs["attention_mask"], answers)
    return {**inputs, "labels": labels}


def prompt(processor: Any, waveforms: Sequence[np.ndarray]) -> dict[str, Any]:
    return _encode(processor, waveforms, [""] * len(waveforms), "left")


def num_rows(num_samples: int) -> int:
    return -(-num_samples // SAMPLES_PER_ROW)  # every row that begins in the true audio


def num_placeholders(num_samples: int) -> int:
    return -(-num_samples // (30 * SAMPLE_RATE_HZ)) * ROWS_PER_CHUNK


def _encode(
    processor: Any, waveforms: Sequence[np.ndarray], answers: Sequence[str], padding_side: str
) -> dict[str, Any]:
    texts = [
        "<s>[INST][BEGIN_AUDIO]"
        + "[AUDIO]" * num_placeholders(len(waveform))
        + f"[/INST]lang:en[TRANSCRIBE]{answer}"
        for waveform, answer in zip(waveforms, answers, strict=True)
    ]
    inputs = processor.tokenizer(
        texts, padding=True, padding_side=padding_side, return_tensors="pt"
    )
    features = processor.feature_extractor(
        list(waveforms), sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt"
    )
    return {**inputs, "input_features": features["input_features"]}


FAMILY = ReadFamily(
    name="Voxtral",
    model_type="voxtral",
    save=save,
    load=load_auto,
    batch=batch,
    prompt=prompt,
    num_rows=num_rows,
    num_placeholders=num_placeholders,
)
