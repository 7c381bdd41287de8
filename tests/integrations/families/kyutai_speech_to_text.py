"""Kyutai speech-to-text: codes of the audio enter as tokens beside the text's, so the hooks refuse it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import (
    AutoModelForMultimodalLM,
    AutoProcessor,
    GPT2Tokenizer,
    KyutaiSpeechToTextConfig,
    KyutaiSpeechToTextFeatureExtractor,
    KyutaiSpeechToTextForConditionalGeneration,
    KyutaiSpeechToTextProcessor,
)

from families.base import TEXTS, TinyFamily, save_random


def save(folder: Path) -> None:
    blank = GPT2Tokenizer(pad_token="<|endoftext|>")
    tokenizer = blank.train_new_from_iterator([TEXTS], vocab_size=320)
    config = KyutaiSpeechToTextConfig(
        vocab_size=len(tokenizer),
        codebook_vocab_size=17,
        num_codebooks=4,
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        audio_bos_token_id=16,
        audio_pad_token_id=len(tokenizer) + 4 * 17,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        codec_config={
            "model_type": "mimi",
            "hidden_size": 16,
            "num_filters": 4,
            "codebook_size": 16,
            "codebook_dim": 8,
            "vector_quantization_hidden_dimension": 8,
            "num_quantizers": 4,
            "upsample_groups": 16,
            "num_hidden_layers": 1,
            "intermediate_size": 32,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
        },
    )
    processor = KyutaiSpeechToTextProcessor(KyutaiSpeechToTextFeatureExtractor(), tokenizer)
    save_random(folder, KyutaiSpeechToTextForConditionalGeneration, config, processor)


def load(folder: Path) -> tuple[Any, Any]:
    return AutoModelForMultimodalLM.from_pretrained(folder), AutoProcessor.from_pretrained(folder)


FAMILY = TinyFamily(
    name="Kyutai speech-to-text",
    model_type="kyutai_speech_to_text",
    save=save,
    load=load,
)
