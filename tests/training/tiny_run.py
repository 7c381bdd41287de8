"""Tiny random towers, noisy tones with transcripts, and a configuration over them: all on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def save_towers(root: Path, *, num_layers: int = 1) -> tuple[Path, Path]:
    """Write audio_tower/ (one-layer Whisper encoder, 2 s) and language_model/ (Qwen2)."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        [" ".join(WORDS)] * 2,
        trainers.BpeTrainer(
            vocab_size=280,
            special_tokens=["<pad>", "<s>", "</s>", "<asr>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    language_model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(fast),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=num_layers,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    with torch.no_grad():  # random, as its neighbours: a new embedding's padding row is zero
        language_model.get_input_embeddings().weight[0].normal_(std=0.02)
    encoder = WhisperEncoder(
        WhisperConfig(
            d_model=16,
            encoder_layers=1,
            encoder_attention_heads=2,
            encoder_ffn_dim=32,
            num_mel_bins=16,
            max_source_positions=100,
            vocab_size=8,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        )
    )
    audio_tower, text = root / "audio_tower", root / "language_model"
    encoder.save_pretrained(audio_tower)
    WhisperFeatureExtractor(feature_size=16, chunk_length=2).save_pretrained(audio_tower)
    language_model.save_pretrained(text)
    fast.save_pretrained(text)
    return audio_tower, text


def save_corpus(root: Path, *, num_utterances: int = 8, seed: int = 0) -> Path:
    """Write tones of different lengths and a manifest; returns the manifest."""
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    lines = []
    for index in range(num_utterances):
        words = rng.choice(WORDS, size=rng.integers(1, 5))
        time = np.arange(int(16_000 * (0.5 + 0.1 * len(words)))) / 16_000
        tone = 0.3 * np.sin(2 * np.pi * rng.uniform(150, 900) * time)
        samples = tone + 0.02 * rng.standard_normal(len(time))
        soundfile.write(root / f"u{index}.wav", samples, 16_000, subtype="PCM_16")
        lines.append(
            {"id": f"u{index}", "audio": f"u{index}.wav", "text": " ".join(words), "language": "en"}
        )
    manifest = root / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return manifest


def run_config(
    towers: tuple[Path, Path], manifest: Path, stages: list[dict[str, Any]], **model: Any
) -> dict[str, Any]:
    """Plain configuration data over the tiny towers, to be changed and validated by a test."""
    return {
        "seed": 1,
        "model": {
            "audio_tower": str(towers[0]),
            "language_model": str(towers[1]),
            "short_mel": True,
            "adapter_type": "stack_mlp",
            "adapter_stack": 3,
            **model,
        },
        "data": {"train": [str(manifest)]},
        "stages": stages,
    }


def stage(name: str = "connect", **changes: Any) -> dict[str, Any]:
    """Plain data of a stage of two steps."""
    return {
        "name": name,
        "train": ["adapter"],
        "steps": 2,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "trainer": {"logging_steps": 1, "use_cpu": True},
        **changes,
    }
