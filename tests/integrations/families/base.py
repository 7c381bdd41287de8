"""What the tests know of a family: a tiny random model of it, saved to disk, and how a user calls it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

SAMPLE_RATE_HZ = 16_000
TEXTS = ("rojo azul", "the green house", "ein blaues haus am see", "uno dos tres")
"""Transcripts of the tests; every tokenizer of a family is trained on these."""


@dataclass(frozen=True, kw_only=True)
class TinyFamily:
    """A family of which the tests know a model alone: one that is to be refused.

    Attributes:
        name: as its users call it, such as "Qwen2-Audio".
        model_type: of its configuration, such as "qwen2_audio".
        save: build a tiny random model (seeded by torch.manual_seed(0)) and its processor, and save
            both to a folder.
        load: (model, processor) from that folder, by Auto classes where they know the family.
    """

    name: str
    model_type: str
    save: Callable[[Path], None]
    load: Callable[[Path], tuple[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class ReadFamily(TinyFamily):
    """A family that can be read, and how its users call it.

    Attributes:
        batch: a training batch as a user makes it: (processor, waveforms, transcripts) -> arguments
            of the model's forward, padded on the right. Its `labels` are -100 but at each
            transcript's tokens and the end token(s) behind it.
        prompt: a batch to generate from, left-padded, without labels: (processor, waveforms).
        num_rows: rows of speech that enter the decoder for so many samples of audio: the true ones.
        num_placeholders: placeholder tokens for so many samples, where they are more than the true
            rows; None = as many.
        stand_in: what its processor needs in place of a package that has no build beside a CPU torch;
            batch and prompt enter it themselves.
    """

    batch: Callable[[Any, Sequence[np.ndarray], Sequence[str]], dict[str, Any]]
    prompt: Callable[[Any, Sequence[np.ndarray]], dict[str, Any]]
    num_rows: Callable[[int], int]
    num_placeholders: Callable[[int], int] | None = None
    stand_in: Callable[[], AbstractContextManager[Any]] = nullcontext


def waveforms(*durations_s: float, seed: int = 0) -> list[np.ndarray]:
    """Noise of some durations: float32 at 16 kHz."""
    rng = np.random.default_rng(seed)
    return [
        (0.1 * rng.standard_normal(round(duration * SAMPLE_RATE_HZ))).astype(np.float32)
        for duration in durations_s
    ]


def transcript_labels(input_ids: Any, attention_mask: Any, answers: Sequence[Sequence[int]]) -> Any:
    """Labels of rows that end in an answer: -100 everywhere but at its tokens, the last real ones.

    Args:
        input_ids: (batch, tokens), padded on either side.
        attention_mask: (batch, tokens), 1 = real.
        answers: of each row the token ids of transcript and end token(s), as they stand at the row's end.
    """
    labels = torch.full_like(input_ids, -100)
    for row, answer in enumerate(answers):
        columns = attention_mask[row].nonzero().flatten()[-len(answer) :]
        expected = torch.tensor(list(answer))
        assert torch.equal(input_ids[row, columns], expected), "the row does not end in its answer"
        labels[row, columns] = expected
    return labels


def save_random(folder: Path, model_class: Any, config: Any, *parts: Any) -> None:
    """Save a random model of seed 0 and the parts of its processor."""
    torch.manual_seed(0)
    model_class(config).save_pretrained(folder)
    for part in parts:
        part.save_pretrained(folder)
