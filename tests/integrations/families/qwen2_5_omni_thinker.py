"""Qwen2.5-Omni's thinker: a Whisper-like encoder in short windows, pooled by two, Qwen2.5 behind it.

Its processor needs torchvision for videos. Without it, as in the tests, `audio_processor` builds the same
class from its feature extractor and its tokenizer. Qwen3-Omni, Gemma and Phi-4 share that.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from transformers import (
    AutoFeatureExtractor,
    AutoModelForMultimodalLM,
    AutoTokenizer,
    ProcessorMixin,
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2Tokenizer,
    WhisperFeatureExtractor,
)

from families.base import TEXTS, ReadFamily, save_random
from families.chat import chat_batch, chat_prompt

SPECIAL_TOKENS = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NUM_MEL_BINS = 16
TINY_ENCODER = {
    "num_mel_bins": NUM_MEL_BINS,
    "d_model": 16,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "output_dim": 32,
}
TINY_VISION = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_heads": 2,
    "out_hidden_size": 32,
}
TINY_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def thinker_ids(tokenizer: Any) -> dict[str, int]:
    """The special tokens' ids that both thinkers' configurations name alike."""
    return {
        "audio_start_token_id": tokenizer.audio_bos_token_id,
        "vision_start_token_id": tokenizer.vision_bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def qwen_tokenizer(special_tokens: dict[str, str], chat_template: str) -> Qwen2Tokenizer:
    """Qwen's byte-level tokenizer, trained on the tests' transcripts."""
    blank = Qwen2Tokenizer(
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={**special_tokens, "im_start_token": "<|im_start|>"},
    )
    tokenizer = blank.train_new_from_iterator([TEXTS], vocab_size=320)
    tokenizer.chat_template = chat_template
    return tokenizer


def audio_processor(processor_class: type, **parts: Any) -> Any:
    """A family's processor whose image and video processors are None, for calls with audio alone."""
    with mock.patch.object(ProcessorMixin, "check_argument_for_proper_class"):
        return processor_class(**parts)


def load_audio_processor(
    processor_class: type, folder: Path, *, audio_part: str = "feature_extractor", **parts: Any
) -> Any:
    """`audio_processor` of a folder that holds a tokenizer and a feature extractor, its `audio_part`."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return audio_processor(
        processor_class,
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
        **{audio_part: AutoFeatureExtractor.from_pretrained(folder)},
        **parts,
    )


def save(folder: Path) -> None:
    tokenizer = qwen_tokenizer(SPECIAL_TOKENS, CHAT_TEMPLATE)
    config = Qwen2_5OmniThinkerConfig(
        audio_config={**TINY_ENCODER, "n_window": 20},
        vision_config={**TINY_VISION, "fullatt_block_indexes": [0]},
        text_config={
            **TINY_TEXT,
            "vocab_size": len(tokenizer),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [2, 3, 3],
            },
            "tie_word_embeddings": False,
        },
        audio_token_index=tokenizer.audio_token_id,
        image_token_index=tokenizer.image_token_id,
        video_token_index=tokenizer.video_token_id,
        audio_end_token_id=tokenizer.audio_eos_token_id,
        **thinker_ids(tokenizer),
    )
    save_random(
        folder,
        Qwen2_5OmniThinkerForConditionalGeneration,
        config,
        WhisperFeatureExtractor(feature_size=NUM_MEL_BINS),
        tokenizer,
    )


def load(folder: Path) -> tuple[Any, Any]:
    model = AutoModelForMultimodalLM.from_pretrained(folder)
    return model, load_audio_processor(Qwen2_5OmniProcessor, folder)


def num_rows(num_samples: int) -> int:
    mel_frames = -(-num_samples // 160)  # a hop of 10 ms
    conv_frames = (mel_frames + 1) // 2  # stride 2
    return conv_frames // 2  # averages of two


FAMILY = ReadFamily(
    name="Qwen2.5-Omni thinker",
    model_type="qwen2_5_omni_thinker",
    save=save,
    load=load,
    batch=partial(chat_batch, request="Transcribe.", end="<|im_end|>\n"),
    prompt=partial(chat_prompt, request="Transcribe."),
    num_rows=num_rows,
)
