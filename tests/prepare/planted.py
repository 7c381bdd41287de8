"""Speech whose letters can be read off its samples, and a CTC model that reads them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import soundfile
import torch
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor

from otreg.data.manifest import Utterance, Word, write_manifest

HOP = 320  # samples a frame: 20 ms
FRAME_S = HOP / 16_000
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
VOCABULARY = {"<pad>": 0, "<unk>": 1, "|": 2} | {c: i for i, c in enumerate(LETTERS, 3)}


class PlantedCtc(torch.nn.Module):
    """A frame of constant value v / 64 is the vocabulary's entry v; silence is the blank."""

    main_input_name = "input_values"

    def __init__(self, sharpness: float = 8.0) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(sharpness))
        self.config = SimpleNamespace(pad_token_id=0, inputs_to_logits_ratio=HOP)

    def forward(self, input_values: torch.Tensor) -> SimpleNamespace:
        frames = input_values.shape[1] // HOP
        value = 64 * input_values[:, : frames * HOP].reshape(1, frames, HOP).mean(-1)
        apart = (value[..., None] - torch.arange(len(VOCABULARY))).abs()
        return SimpleNamespace(logits=-self.scale * apart)


def tokenizer(folder: Path) -> Wav2Vec2CTCTokenizer:
    import json

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(VOCABULARY))
    return Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))


def feature_extractor() -> Wav2Vec2FeatureExtractor:
    return Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=False)


def speak(path: Path, text: str, rng: np.random.Generator) -> tuple[Word, ...]:
    """Write a file in which every letter holds 1 to 4 frames; returns the exact words."""
    frames: list[int] = [0] * int(rng.integers(0, 4))
    words = []
    for word in text.split():
        start = len(frames)
        for letter in word.upper():
            frames += [VOCABULARY[letter]] * int(rng.integers(1, 5)) + [0]
        frames.pop()  # no blank inside the word's end
        words.append(Word(word, round(start * FRAME_S, 4), round(len(frames) * FRAME_S, 4)))
        frames += [0] + [2] * int(rng.integers(1, 3)) + [0] * int(rng.integers(1, 5))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.repeat(np.array(frames) / 64, HOP), 16_000, subtype="FLOAT")
    return tuple(words)


def save_planted(root: Path, num_utterances: int = 6, seed: int = 0) -> tuple[Path, Path]:
    """Write plain.jsonl, and exact.jsonl with the words' times."""
    rng = np.random.default_rng(seed)
    vocabulary = ["hello", "wood", "see", "a", "cab", "book", "zoo", "mammal"]
    plain, exact = [], []
    for number in range(num_utterances):
        text = " ".join(rng.choice(vocabulary, size=rng.integers(1, 5)))
        audio = root / "wav" / f"{number}.wav"
        words = speak(audio, text, rng)
        plain.append(Utterance(f"u{number}", audio, text, "en"))
        exact.append(Utterance(f"u{number}", audio, text, "en", words=words))
    write_manifest(root / "plain.jsonl", plain)
    write_manifest(root / "exact.jsonl", exact)
    return root / "plain.jsonl", root / "exact.jsonl"
