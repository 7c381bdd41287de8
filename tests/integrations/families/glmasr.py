"""GLM-ASR: an encoder with rotary positions over fixed windows, four frames side by side into an MLP, Llama.

The encoder takes no mask and attends to the silence behind the audio. The window is always full, so batch =
single. The placeholder is <|pad|>; <|endoftext|> pads. The window is 4 s here and 30 s in the checkpoint.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from transformers import (
    GlmAsrConfig,
    GlmAsrForConditionalGeneration,
    GlmAsrProcessor,
    WhisperFeatureExtractor,
)

from families.base import ReadFamily, save_random
from families.chat import chat_batch, chat_prompt
from families.qwen2_audio import (
    HOP_LENGTH,
    NUM_MEL_BINS,
    SPREAD,
    WINDOW_S,
    byte_tokenizer,
    load_auto,
    text_config,
)

REQUEST = "Please transcribe this audio into text"  # the processor's default_transcription_prompt
END = (
    "<|endoftext|>"  # the checkpoint's template writes no end; its answers stop at this or <|user|>
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n"
    "{% for part in message['content'] %}{% if part['type'] == 'audio' %}"
    "<|begin_of_audio|><|pad|><|end_of_audio|><|user|>\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% if message['role'] == 'assistant' %}<|endoftext|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TINY_ENCODER = {
    **SPREAD,
    "num_mel_bins": NUM_MEL_BINS,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def save(folder: Path) -> None:
    tokenizer = byte_tokenizer(
        "<|pad|>",
        "<|user|>",
        "<|assistant|>",
        "<|begin_of_audio|>",
        "<|end_of_audio|>",
        eos_token=END,
    )
    config = GlmAsrConfig(
        audio_config=TINY_ENCODER,
        text_config=text_config(tokenizer),
        audio_token_id=tokenizer.convert_tokens_to_ids("<|pad|>"),
    )
    extractor = WhisperFeatureExtractor(feature_size=NUM_MEL_BINS, chunk_length=WINDOW_S)
    processor = GlmAsrProcessor(extractor, tokenizer, chat_template=CHAT_TEMPLATE)
    save_random(folder, GlmAsrForConditionalGeneration, config, processor)


def num_rows(num_samples: int) -> int:
    frames = -(-num_samples // HOP_LENGTH)  # every frame that begins in the true audio
    frames = (frames - 1) // 2 + 1  # the second convolution: kernel 3, stride 2, padding 1
    return frames // 4  # whole groups only


FAMILY = ReadFamily(
    name="GLM-ASR",
    model_type="glmasr",
    save=save,
    load=load_auto,
    batch=partial(chat_batch, request=REQUEST, end=END),
    prompt=partial(chat_prompt, request=REQUEST),
    num_rows=num_rows,
)
