"""Fun-ASR-Nano: SenseVoice's encoder on seven stacked filter-bank frames, an MLP and a Transformer, Qwen3.

Batch is not single: nothing sets the attention implementation of `adaptor_config`, so the Transformer
behind the encoder drops its mask and attends to the padding. Beside 2.5 s of audio, the loss of 0.4 s moves
by 0.08 here, its speech rows by up to 1.5 (they spread by 1.4). `from_pretrained(...,
attn_implementation="sdpa")` mends it.

Its feature extractor needs torchaudio, whose wheel from PyPI fails beside a CPU torch: `stand_in` gives it
the one thing it takes from there, a filter bank, and lets Auto classes find it. The rest of the processor
is its own.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from transformers import FunAsrNanoConfig, FunAsrNanoForConditionalGeneration, FunAsrNanoProcessor
from transformers.audio_utils import mel_filter_bank

from families.base import ReadFamily, save_random
from families.chat import chat_batch, chat_prompt
from families.qwen2_audio import (
    NUM_MEL_BINS,
    SPREAD,
    TINY_TEXT,
    byte_tokenizer,
    load_auto,
    text_config,
)

PACKAGE = importlib.import_module("transformers.models.fun_asr_nano")
EXTRACTION = importlib.import_module(f"{PACKAGE.__name__}.feature_extraction_fun_asr_nano")
CHAT_TEMPLATE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}语音转写：<|object_ref_start|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TINY_LAYERS = {**SPREAD, "num_attention_heads": 2, "hidden_dropout": 0.0, "attention_dropout": 0.0}


def fbank(
    waveform: torch.Tensor,
    num_mel_bins: int,
    frame_length: int,
    frame_shift: int,
    sample_frequency: int,
    window_type: str,
) -> torch.Tensor:
    """What torchaudio.compliance.kaldi.fbank computes: log power in mel bands, of whole frames."""
    assert window_type == "hamming"
    length, shift = (ms * sample_frequency // 1000 for ms in (frame_length, frame_shift))
    frames = waveform[0].unfold(0, length, shift)
    frames = frames - frames.mean(1, keepdim=True)
    frames = frames - 0.97 * torch.cat([frames[:, :1], frames[:, :-1]], 1)  # pre-emphasis
    window = torch.hamming_window(length, periodic=False)
    power = torch.fft.rfft(frames * window, 512).abs().square()
    bands = mel_filter_bank(
        257,
        num_mel_bins,
        20.0,
        sample_frequency / 2,
        sample_frequency,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    return (power @ torch.from_numpy(bands).float()).clamp(min=1e-7).log()


@contextmanager
def stand_in() -> Iterator[None]:
    """The family's feature extractor without torchaudio."""
    kaldi = SimpleNamespace(fbank=fbank)
    torchaudio = SimpleNamespace(compliance=SimpleNamespace(kaldi=kaldi))
    extractor = EXTRACTION.FunAsrNanoFeatureExtractor
    with (
        mock.patch.object(EXTRACTION, "torchaudio", torchaudio, create=True),
        mock.patch.object(PACKAGE, "FunAsrNanoFeatureExtractor", extractor),
    ):
        yield


@stand_in()
def save(folder: Path) -> None:
    tokenizer = byte_tokenizer("<|im_start|>", "<|object_ref_start|>", eos_token="<|im_end|>")
    encoder = {
        **TINY_LAYERS,
        "num_mel_bins": NUM_MEL_BINS,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_timestamp_prediction_layers": 1,
    }
    width = TINY_TEXT["hidden_size"]
    adaptor = {
        **TINY_LAYERS,
        "hidden_size": width,
        "intermediate_size": width // 4,
        "num_hidden_layers": 1,
        "projector_hidden_size": 32,
    }
    config = FunAsrNanoConfig(
        **SPREAD,
        audio_config=encoder,
        adaptor_config=adaptor,
        text_config=text_config(tokenizer),
        audio_token_id=tokenizer.convert_tokens_to_ids("<|object_ref_start|>"),
    )
    extractor = EXTRACTION.FunAsrNanoFeatureExtractor(feature_size=NUM_MEL_BINS)
    processor = FunAsrNanoProcessor(extractor, tokenizer, chat_template=CHAT_TEMPLATE)
    save_random(folder, FunAsrNanoForConditionalGeneration, config, processor)


@stand_in()
def load(folder: Path) -> tuple[Any, Any]:
    return load_auto(folder)


def num_rows(num_samples: int) -> int:
    frames = 1 + (num_samples - 400) // 160  # whole windows of 25 ms, 10 ms apart
    return -(-frames // 6)  # one in six is kept


FAMILY = ReadFamily(
    name="Fun-ASR-Nano",
    model_type="fun_asr_nano",
    save=save,
    load=load,
    batch=stand_in()(partial(chat_batch, end="<|im_end|>\n")),
    prompt=stand_in()(chat_prompt),
    num_rows=num_rows,
    stand_in=stand_in,
)
