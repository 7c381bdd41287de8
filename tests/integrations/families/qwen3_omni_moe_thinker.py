"""Qwen3-Omni's thinker: an encoder of 13 rows per second, Qwen3's mixture of experts behind it.

Batch is not single for one length in eight. The longest utterance of a batch loses a last mel frame of less
than 10 ms, the others keep it; where that frame begins a row, the utterance has a row more beside a longer
one. `num_rows` is that of the utterance alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForMultimodalLM,
    Qwen3OmniMoeProcessor,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)

from families.base import TinyFamily
from families.qwen2_5_omni_thinker import (
    CHAT_TEMPLATE,
    SPECIAL_TOKENS,
    chat_batch,
    chat_prompt,
    load_audio_processor,
    qwen_tokenizer,
)

RENAMED = {
    "image_token": "<|image_pad|>",
    "audio_token": "<|audio_pad|>",
    "video_token": "<|video_pad|>",
    "audio_bos_token": "<|audio_start|>",
    "audio_eos_token": "<|audio_end|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
}
NUM_MEL_BINS = 16


def save(folder: Path) -> None:
    template = CHAT_TEMPLATE
    for role, token in SPECIAL_TOKENS.items():
        template = template.replace(token, RENAMED[role])
    tokenizer = qwen_tokenizer(RENAMED, template)
    config = Qwen3OmniMoeThinkerConfig(
        audio_config={
            "num_mel_bins": NUM_MEL_BINS,
            "d_model": 16,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "downsample_hidden_size": 4,
            "output_dim": 32,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 32,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "moe_intermediate_size": 16,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [4, 2, 2],
            },
        },
        audio_token_id=tokenizer.audio_token_id,
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
        audio_start_token_id=tokenizer.audio_bos_token_id,
        vision_start_token_id=tokenizer.vision_bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    Qwen3OmniMoeThinkerForConditionalGeneration(config).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=NUM_MEL_BINS).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load(folder: Path) -> tuple[Any, Any]:
    model = AutoModelForMultimodalLM.from_pretrained(folder)
    return model, load_audio_processor(Qwen3OmniMoeProcessor, folder)


def num_rows(num_samples: int) -> int:
    seconds, rest = divmod(num_samples // 160, 100)  # mel frames, hop 10 ms; windows of a second
    return 13 * seconds + -(-rest // 8)  # three convolutions of stride 2 in each window


FAMILY = TinyFamily(
    name="Qwen3-Omni thinker",
    model_type="qwen3_omni_moe_thinker",
    save=save,
    load=load,
    batch=chat_batch("<|im_end|>\n"),
    prompt=chat_prompt,
    num_rows=num_rows,
    note="An utterance may have one row more beside a longer one.",
)
