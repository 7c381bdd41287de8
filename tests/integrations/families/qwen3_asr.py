"""Qwen3-ASR: three convolutions over chunks of 1 s (13 frames each), windowed attention, an MLP, Qwen3.

The processor pads an utterance under 0.5 s to 0.5 s and gives the padding placeholders too.

Batch is not single where an utterance ends inside a chunk: behind it stand zeros if it is alone or the
longest, the spectrum of silence if not. Beside 2.5 s of audio, the loss of 0.4 s moves by 0.013 here, its
last speech row by 0.16 (they spread by 0.29). And a length that is no multiple of 160 samples counts its
last, partial mel frame only where a longer one stands beside it, which can make one placeholder more;
`num_rows` is the count alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import (
    Qwen3ASRConfig,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRProcessor,
)

from families.base import ReadFamily, save_random
from families.chat import chat_batch
from families.qwen2_audio import (
    HOP_LENGTH,
    NUM_MEL_BINS,
    SPREAD,
    byte_tokenizer,
    load_auto,
    text_config,
)

MIN_SAMPLES = 8000  # the extractor's min_length
FRAMES_PER_CHUNK = 100
CHAT_TEMPLATE = (
    "<|im_start|>system\n<|im_end|>\n"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'audio' %}"
    "<|audio_start|><|audio_pad|><|audio_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
)
TINY_ENCODER = {
    **SPREAD,
    "num_mel_bins": NUM_MEL_BINS,
    "d_model": 16,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "output_dim": 32,
    "downsample_hidden_size": 8,
}


def save(folder: Path) -> None:
    tokenizer = byte_tokenizer(
        eos_token="<|im_end|>",
        extra_special_tokens={
            "im_start_token": "<|im_start|>",
            "audio_token": "<|audio_pad|>",
            "audio_bos_token": "<|audio_start|>",
            "audio_eos_token": "<|audio_end|>",
        },
    )
    tokenizer.add_tokens("<asr_text>")  # no special token: decoding keeps it
    config = Qwen3ASRConfig(
        **SPREAD,
        audio_config=TINY_ENCODER,
        text_config=text_config(tokenizer),
        audio_token_id=tokenizer.convert_tokens_to_ids("<|audio_pad|>"),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    extractor = Qwen3ASRFeatureExtractor(feature_size=NUM_MEL_BINS)
    processor = Qwen3ASRProcessor(extractor, tokenizer, chat_template=CHAT_TEMPLATE)
    save_random(folder, Qwen3ASRForConditionalGeneration, config, processor)


def prompt(processor: Any, waveforms: Sequence[np.ndarray]) -> dict[str, Any]:
    return dict(processor.apply_transcription_request(list(waveforms), language="English"))


def num_rows(num_samples: int) -> int:
    chunks, rest = divmod(num_samples // HOP_LENGTH, FRAMES_PER_CHUNK)
    return 13 * chunks + -(-rest // 8)  # three convolutions: kernel 3, stride 2, padding 1


def num_placeholders(num_samples: int) -> int:
    return num_rows(max(num_samples, MIN_SAMPLES))


FAMILY = ReadFamily(
    name="Qwen3-ASR",
    model_type="qwen3_asr",
    save=save,
    load=load_auto,
    batch=partial(chat_batch, start="language English<asr_text>", end="<|im_end|>\n"),
    prompt=prompt,
    num_rows=num_rows,
    num_placeholders=num_placeholders,
)
