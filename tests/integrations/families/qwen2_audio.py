"""Qwen2-Audio: Whisper's encoder over a window of fixed length, pooled by two, a linear projector, Qwen2.

The window is 4 s here and 30 s in the checkpoints; longer audio is cut to it. Where no row has two
placeholders side by side (audio of up to 0.06 s) the model expands them by itself, and fails with labels.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from transformers import (
    AutoModelForMultimodalLM,
    AutoProcessor,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Tokenizer,
    WhisperFeatureExtractor,
)

from families.base import SAMPLE_RATE_HZ, TEXTS, ReadFamily, save_random
from families.chat import chat_batch, chat_prompt

HOP_LENGTH = 160
WINDOW_S = 4
NUM_MEL_BINS = 16
SPREAD = {"initializer_range": 0.2}  # ten times the default: at these widths less hides the speech
TINY_TEXT = {
    **SPREAD,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
TINY_WHISPER = {
    **SPREAD,
    "num_mel_bins": NUM_MEL_BINS,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_source_positions": WINDOW_S * SAMPLE_RATE_HZ // HOP_LENGTH // 2,
}


def byte_tokenizer(*special_tokens: str, eos_token: str, **kwargs: Any) -> Qwen2Tokenizer:
    """A byte-level tokenizer trained on the tests' transcripts; it pads with <|endoftext|>, as Qwen's do."""
    blank = Qwen2Tokenizer(eos_token=eos_token, **kwargs)
    return blank.train_new_from_iterator(
        [TEXTS],
        vocab_size=320,
        new_special_tokens=list(special_tokens) or None,
        show_progress=False,
    )


def text_config(tokenizer: Any) -> dict[str, Any]:
    """A tiny decoder's configuration that fits the tokenizer."""
    names = [f"{kind}_token_id" for kind in ("bos", "eos", "pad")]
    ids = {name: getattr(tokenizer, name) for name in names}
    return {**TINY_TEXT, "vocab_size": len(tokenizer), **ids}


def load_auto(folder: Path) -> tuple[Any, Any]:
    return AutoModelForMultimodalLM.from_pretrained(folder), AutoProcessor.from_pretrained(folder)


def save(folder: Path) -> None:
    tokenizer = byte_tokenizer(
        "<|im_start|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", eos_token="<|im_end|>"
    )
    config = Qwen2AudioConfig(
        audio_config=TINY_WHISPER,
        text_config=text_config(tokenizer),
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    extractor = WhisperFeatureExtractor(feature_size=NUM_MEL_BINS, chunk_length=WINDOW_S)
    processor = Qwen2AudioProcessor(extractor, tokenizer)  # it brings its chat template
    save_random(folder, Qwen2AudioForConditionalGeneration, config, processor)


def num_rows(num_samples: int) -> int:
    frames = -(-num_samples // HOP_LENGTH)  # every frame that begins in the true audio
    frames = (frames - 1) // 2 + 1  # the second convolution: kernel 3, stride 2, padding 1
    return (frames - 2) // 2 + 1  # the average pool: kernel 2, stride 2, no padding


FAMILY = ReadFamily(
    name="Qwen2-Audio",
    model_type="qwen2_audio",
    save=save,
    load=load_auto,
    batch=partial(chat_batch, request="Transcribe.", end="<|im_end|>\n"),
    prompt=partial(chat_prompt, request="Transcribe."),
    num_rows=num_rows,
)
