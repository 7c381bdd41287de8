"""Voxtral's transcription request, which its processor makes through mistral-common alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

WINDOW_SAMPLES = 480_000  # 30 s, always filled
ROWS_PER_WINDOW = 375


def voxtral_prompts(
    processor: Any,
    waveforms: Sequence[np.ndarray],
    *,
    language: str | None = None,
    model_id: str | None = None,
) -> dict[str, Any]:
    """Prompts that ask for a transcription.

    With Mistral's own tokenizer the processor makes them (package mistral-common). With a tokenizer
    of Hugging Face's, which its processor refuses, they are written here, token for token the same.

    Args:
        processor: a VoxtralProcessor.
        waveforms: (samples,) each, 16 kHz.
        language: two letters; None = the model finds out.
        model_id: the checkpoint's name, which mistral-common asks for.

    Returns:
        input_ids, attention_mask, and input_features (windows, mels, 3000); `num_samples`, by which
        `attach` tells audio from the padding of the windows.
    """
    counts = torch.tensor([len(waveform) for waveform in waveforms])
    tokenizer = processor.tokenizer
    if not hasattr(tokenizer, "backend_tokenizer"):
        inputs = processor.apply_transcription_request(
            audio=list(waveforms),
            model_id=model_id,
            language=language,
            sampling_rate=16_000,
            format=["wav"] * len(waveforms),
        )
        return {**inputs, "num_samples": counts}
    windows = [-(-len(waveform) // WINDOW_SAMPLES) for waveform in waveforms]
    spoken = "" if language is None else f"lang:{language}"
    texts = [
        f"<s>[INST][BEGIN_AUDIO]{'[AUDIO]' * (ROWS_PER_WINDOW * number)}[/INST]{spoken}[TRANSCRIBE]"
        for number in windows
    ]
    inputs = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    features = []
    for waveform, number in zip(waveforms, windows, strict=True):
        padded = np.pad(waveform, (0, number * WINDOW_SAMPLES - len(waveform)))
        mel = processor.feature_extractor(
            padded, sampling_rate=16_000, return_tensors="pt", truncation=False
        )["input_features"][0]
        features += list(mel.unflatten(1, (number, -1)).movedim(1, 0))
    return {
        "input_ids": inputs["input_ids"],
        "attention_mask": inputs["attention_mask"],
        "input_features": torch.stack(features),
        "num_samples": counts,
    }
