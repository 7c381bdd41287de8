"""Recordings and stand-ins for the data tests."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

REAL_SPEECH = Path(os.environ.get("OTREG_DATA") or Path(__file__).parents[3] / "shared" / "data")


@pytest.fixture(scope="session")
def real_speech() -> Path:
    if not REAL_SPEECH.is_dir():
        pytest.skip(f"no recordings at {REAL_SPEECH}; OTREG_DATA names their folder")
    return REAL_SPEECH


@pytest.fixture
def write_tone():
    import soundfile

    def write(path, duration_s=1.0, rate_hz=16000, channels=1, frequency_hz=440.0, **options):
        time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
        tone = 0.3 * np.sin(2 * np.pi * frequency_hz * time_s)
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = np.stack([tone] * channels, axis=1) if channels > 1 else tone
        soundfile.write(path, samples, rate_hz, **options)
        return path

    return write


class TinyProcessor:
    """Frames of 160 samples x 2 values; one placeholder per 8 frames; a token per character."""

    pad_token_id = 0
    audio_token_id = 9
    feature_extractor = SimpleNamespace(to_dict=lambda: {"hop": 160})

    def features(self, samples):
        frames = samples[: len(samples) // 160 * 160].reshape(-1, 160)
        return np.stack([frames.mean(axis=1), frames.std(axis=1)], axis=1).astype(np.float32)

    def num_speech_frames(self, feature_length):
        return self.num_speech_frames_from_encoder(feature_length // 2)

    def num_speech_frames_from_encoder(self, encoder_frames):
        return encoder_frames // 4

    def feature_length(self, num_samples):
        return num_samples // 160

    def tokenize_row(self, row, num_frames):
        frames = iter(num_frames)
        out = {"input_ids": [1], "labels": [-100], "clips": [], "text_ids": []}

        def add(ids, supervised=False):
            out["input_ids"] += ids
            out["labels"] += ids if supervised else [-100] * len(ids)

        for segment in row.segments:
            ids = [100 + ord(character) for character in segment.text if character != "\u00b7"]
            if segment.kind == "audio":
                length = next(frames)
                out["clips"].append((len(out["input_ids"]), length))
                out["text_ids"].append(ids)
                add([self.audio_token_id] * length)
            elif segment.supervised:
                add([2])
                add([*ids, 3], supervised=True)
            else:
                add(ids)
        if not row.segments[-1].supervised:
            add([2])
        return out


class TinyModel(torch.nn.Module):
    """An encoder that joins two frames into one and multiplies; frames never mix otherwise."""

    def __init__(self):
        super().__init__()
        self.audio_tower = torch.nn.Linear(4, 3, bias=False)
        self.audio_tower.config = SimpleNamespace(to_dict=lambda: {"layers": 1})
        self.config = SimpleNamespace(short_mel=True, encoder_frame_plan=[[2, 2, 0]])
        self.num_encoded = 0

    def encode(self, features, mask):
        batch, frames, mels = features.shape
        even = frames // 2 * 2
        joined = features[:, :even].reshape(batch, even // 2, 2 * mels)
        self.num_encoded += batch
        return SimpleNamespace(
            encoder_hidden_states=self.audio_tower(joined), encoder_mask=mask[:, 1:even:2]
        )


@pytest.fixture
def processor():
    return TinyProcessor()


@pytest.fixture
def model():
    torch.manual_seed(0)
    return TinyModel()


@pytest.fixture
def corpus(tmp_path, write_tone):
    """Seven tones of different lengths and a manifest of them."""
    from otreg.data import Utterance, read_manifest, write_manifest

    utterances = [
        Utterance(
            id=f"u{number}",
            audio=write_tone(tmp_path / "wav" / f"{number}.wav", duration_s=0.2 + 0.1 * number),
            text="ab" * (number + 1),
            language="en",
        )
        for number in range(7)
    ]
    write_manifest(tmp_path / "corpus.jsonl", utterances)
    return read_manifest(tmp_path / "corpus.jsonl")
