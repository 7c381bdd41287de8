"""Gemma 4: a causal conformer of one row per 40 ms, per-layer embeddings, no image tower in this tiny one.

The decoder gets `attention_mask` as a dictionary, one mask per kind of layer. Its processor needs
torchvision for videos.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from transformers import (
    AutoModelForMultimodalLM,
    Gemma4AudioFeatureExtractor,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4Processor,
)

from families.base import ReadFamily, save_random
from families.chat import chat_batch, chat_prompt
from families.gemma3n import gemma_tokenizer
from families.qwen2_5_omni_thinker import load_audio_processor

SPECIAL_TOKENS = {
    "boi_token": "<|image>",
    "image_token": "<|image|>",
    "eoi_token": "<image|>",
    "boa_token": "<|audio>",
    "audio_token": "<|audio|>",
    "eoa_token": "<audio|>",
    "video_token": "<|video|>",
}
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|turn>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)
NUM_MEL_BINS = 32


def save(folder: Path) -> None:
    tokenizer = gemma_tokenizer(SPECIAL_TOKENS, ("<|turn>", "<turn|>"), CHAT_TEMPLATE)
    config = Gemma4Config(
        text_config={
            "vocab_size": len(tokenizer),
            "vocab_size_per_layer_input": len(tokenizer),
            "hidden_size": 32,
            "hidden_size_per_layer_input": 8,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "global_head_dim": 16,
            "layer_types": ["sliding_attention", "full_attention"],
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.convert_tokens_to_ids("<turn|>"),
        },
        audio_config={
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "subsampling_conv_channels": [NUM_MEL_BINS, 4],  # the first is taken for the bins too
            "output_proj_dims": 16,
        },
        **{
            f"{name}_id": getattr(tokenizer, f"{name}_id")
            for name in SPECIAL_TOKENS
            if name != "eoa_token"
        },
        eoa_token_index=tokenizer.eoa_token_id,
    )
    save_random(
        folder,
        Gemma4ForConditionalGeneration,
        config,
        Gemma4AudioFeatureExtractor(feature_size=NUM_MEL_BINS),
        tokenizer,
    )


def load(folder: Path) -> tuple[Any, Any]:
    processor = load_audio_processor(
        Gemma4Processor, folder, image_processor=None, video_processor=None
    )
    return AutoModelForMultimodalLM.from_pretrained(folder), processor


def num_rows(num_samples: int) -> int:
    mel_frames = -(-num_samples // 160) - 1  # hop 10 ms, frames of 20 ms that end inside the audio
    return -(-mel_frames // 4)  # two convolutions of stride 2


FAMILY = ReadFamily(
    name="Gemma 4",
    model_type="gemma4",
    save=save,
    load=load,
    batch=partial(chat_batch, request="Transcribe.", end="<turn|>\n"),
    prompt=partial(chat_prompt, request="Transcribe."),
    num_rows=num_rows,
)
