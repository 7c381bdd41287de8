"""A tiny model, and rows of every kind for it."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "model"))

from tiny_towers import TEXTS, make_audio, save_audio_tower, save_language_model

from otreg.data import SpeechTextCollator
from otreg.data.segments import Row, Segment
from otreg.model import SpeechLMForConditionalGeneration, SpeechLMProcessor
from rows import chat_row, clip, transcribe_row


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """(model, processor) of random towers; in evaluation mode."""
    root = tmp_path_factory.mktemp("forwards")
    audio = save_audio_tower("whisper-short", root / "audio")
    text = save_language_model("qwen2", root / "text")
    torch.manual_seed(1)
    model = SpeechLMForConditionalGeneration.from_towers(
        audio, text, adapter_type="conv", short_mel=True
    )
    return model.eval(), SpeechLMProcessor.from_config(model.config, audio, text)


@pytest.fixture
def collate(tiny):
    """Rows and their clips' seconds to a batch."""
    processor = tiny[1]

    def make(rows, seconds, **options):
        examples = []
        for row, durations in zip(rows, seconds, strict=True):
            features = [processor.features(x) for x in make_audio(*durations)]
            examples.append({"id": row.id, "row": row, "input_features": features})
        return SpeechTextCollator(processor, **options)(examples)

    return make


@pytest.fixture
def mixed_rows():
    """A document, a chat of two clips, a transcript and a row of text alone; seconds of clips."""
    spans = ("the cat sat", " on the mat", " a dog ran home")
    document = Row(
        "d",
        "document",
        (
            Segment("text", spans[0], "assistant", supervised=True),
            Segment("audio", clip(spans[1], identity="d/1"), "user"),
            Segment("text", spans[2], "assistant", supervised=True),
        ),
    )
    chat = chat_row(
        ("user", clip(TEXTS[1], identity="c/0")),
        ("user", "and"),
        ("user", clip(TEXTS[2], identity="c/1")),
        ("assistant", "two clips"),
    )
    text = chat_row(("user", "hello"), ("assistant", "hi there"), identity="t")
    rows = [document, chat, transcribe_row(TEXTS[0]), text]
    return rows, [[0.5], [0.8, 0.4], [0.9], []]


@pytest.fixture
def samples():
    return np.zeros(16_000, dtype=np.float32)
