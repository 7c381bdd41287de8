"""Phi-4-multimodal: a conformer of one row per 80 ms, merged by the model's own embedding module.

Its audio token id is in `config.audio_config` alone, its processor calls the feature extractor
`audio_processor`, and its image processor needs torchvision.

Batch is not single: the encoder adds its mask to the attention's logits as 1 for real and 0 for padded
frames, so it reads the padding of a batch. Losses here differ by up to 0.04.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from transformers import (
    AutoModelForMultimodalLM,
    GPT2Tokenizer,
    Phi4MultimodalConfig,
    Phi4MultimodalFeatureExtractor,
    Phi4MultimodalForCausalLM,
    Phi4MultimodalProcessor,
)

from families.base import TEXTS, ReadFamily, save_random
from families.chat import chat_batch, chat_prompt
from families.qwen2_5_omni_thinker import load_audio_processor

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def save(folder: Path) -> None:
    turn_tokens = {"user_token": "<|user|>", "assistant_token": "<|assistant|>"}
    tokenizer = GPT2Tokenizer(
        pad_token="<|endoftext|>",
        extra_special_tokens={
            "image_token": "<|image|>",
            "audio_token": "<|audio|>",
            "end_token": "<|end|>",
            **turn_tokens,
        },
    ).train_new_from_iterator([TEXTS], vocab_size=320)
    tokenizer.chat_template = CHAT_TEMPLATE
    config = Phi4MultimodalConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.end_token_id],
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.1,  # at 0.02 a row of speech is 1e-6 times noise
        audio_config={
            "initializer_range": 0.1,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_blocks": 1,
            "num_attention_heads": 2,
            "ext_pw_out_channel": 16,
            "depthwise_separable_out_channel": 16,
            "nemo_conv_channels": 8,
            "audio_token_id": tokenizer.audio_token_id,
        },
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "crop_size": 28,
            "image_token_id": tokenizer.image_token_id,
        },
    )
    save_random(
        folder, Phi4MultimodalForCausalLM, config, Phi4MultimodalFeatureExtractor(), tokenizer
    )


def load(folder: Path) -> tuple[Any, Any]:
    processor = load_audio_processor(
        Phi4MultimodalProcessor, folder, audio_part="audio_processor", image_processor=None
    )
    return AutoModelForMultimodalLM.from_pretrained(folder), processor


def num_rows(num_samples: int) -> int:
    frames = (num_samples - 400) // 160 + 1  # 25 ms each, hop 10 ms
    return -(-frames // 8)  # three convolutions of stride 2


FAMILY = ReadFamily(
    name="Phi-4-multimodal",
    model_type="phi4_multimodal",
    save=save,
    load=load,
    batch=partial(chat_batch, request="Transcribe.", end="<|end|>"),
    prompt=partial(chat_prompt, request="Transcribe."),
    num_rows=num_rows,
)
