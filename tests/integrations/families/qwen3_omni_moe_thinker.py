"""Qwen3-Omni's thinker: an encoder of 13 rows per second, Qwen3's mixture of experts behind it.

Batch is not single for one length in eight. The longest utterance of a batch loses a last mel frame of less
than 10 ms, the others keep it; where that frame begins a row, the utterance has a row more beside a longer
one. `num_rows` is that of the utterance alone.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from transformers import (
    AutoModelForMultimodalLM,
    Qwen3OmniMoeProcessor,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)

from families.base import ReadFamily, save_random
from families.chat import chat_batch, chat_prompt
from families.qwen2_5_omni_thinker import (
    CHAT_TEMPLATE,
    NUM_MEL_BINS,
    SPECIAL_TOKENS,
    TINY_ENCODER,
    TINY_TEXT,
    TINY_VISION,
    load_audio_processor,
    qwen_tokenizer,
    thinker_ids,
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


def save(folder: Path) -> None:
    template = CHAT_TEMPLATE
    for role, token in SPECIAL_TOKENS.items():
        template = template.replace(token, RENAMED[role])
    tokenizer = qwen_tokenizer(RENAMED, template)
    config = Qwen3OmniMoeThinkerConfig(
        audio_config={**TINY_ENCODER, "downsample_hidden_size": 4},
        vision_config={
            **TINY_VISION,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        text_config={
            **TINY_TEXT,
            "vocab_size": len(tokenizer),
            "moe_intermediate_size": 16,
            "num_experts": 4,
            "num_experts_per_tok": 2,
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
        **thinker_ids(tokenizer),
    )
    save_random(
        folder,
        Qwen3OmniMoeThinkerForConditionalGeneration,
        config,
        WhisperFeatureExtractor(feature_size=NUM_MEL_BINS),
        tokenizer,
    )


def load(folder: Path) -> tuple[Any, Any]:
    model = AutoModelForMultimodalLM.from_pretrained(folder)
    return model, load_audio_processor(Qwen3OmniMoeProcessor, folder)


def num_rows(num_samples: int) -> int:
    seconds, rest = divmod(num_samples // 160, 100)  # mel frames, hop 10 ms; windows of a second
    return 13 * seconds + -(-rest // 8)  # three convolutions of stride 2 in each window


FAMILY = ReadFamily(
    name="Qwen3-Omni thinker",
    model_type="qwen3_omni_moe_thinker",
    save=save,
    load=load,
    batch=partial(chat_batch, request="Transcribe.", end="<|im_end|>\n"),
    prompt=partial(chat_prompt, request="Transcribe."),
    num_rows=num_rows,
)
