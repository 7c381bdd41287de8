"""data.long_audio: recordings that are too long are refused before training, or split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tiny_run import run_config, stage

from otreg.data import AudioError, SpeechTextDataset
from otreg.data.manifest import read_manifests
from otreg.training import ConfigError, config_from_dict, train
from otreg.training.building import build_model
from otreg.training.long_audio import fit_long_audio

LINES = "m.jsonl:2: utterance 'long': audio file .*long.wav"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """The towers take 2 s: a row of 1 s and one of 5 s with words."""
    rng = np.random.default_rng(0)
    for name, seconds in (("short", 1), ("long", 5)):
        soundfile.write(
            tmp_path / f"{name}.wav", 0.1 * rng.standard_normal(16_000 * seconds), 16_000
        )
    names = ["one", "two", "three", "four", "five", "six"]
    words = [{"word": w, "start_s": 0.8 * n, "end_s": 0.8 * n + 0.7} for n, w in enumerate(names)]
    rows = [
        {"id": "short", "audio": "short.wav", "text": "one", "language": "en"},
        {
            "id": "long",
            "audio": "long.wav",
            "text": " ".join(names),
            "language": "en",
            "words": words,
        },
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "m.jsonl"


def config_of(towers, manifest: Path, **data: Any) -> dict[str, Any]:
    config = run_config(towers, manifest, [stage(batch_size=1, steps=4)])
    config["data"] |= data
    return config


@pytest.fixture(scope="module")
def processor(towers):
    return build_model(config_from_dict(run_config(towers, Path("x"), [stage()])).model)[1]


def fit(manifest: Path, processor, **data: Any) -> list[str]:
    config = config_from_dict(config_of(("a", "b"), manifest, **data))
    rows = fit_long_audio(read_manifests([manifest]), config.data, processor)
    assert len(SpeechTextDataset(rows, processor).lengths()) == len(rows)
    return [f"{row.id}: {row.text}" for row in rows]


def test_a_run_refuses_a_long_recording_before_it_trains(towers, manifest, tmp_path) -> None:
    config = config_from_dict(config_of(towers, manifest))
    with pytest.raises(
        ValueError,
        match=rf"{LINES} lasts 5\.00 s, above 2 s, what this encoder takes; .*data\.long_audio=split, "
        "or `otreg prepare split`",
    ):
        train(config, tmp_path / "run", quiet=True)
    log = tmp_path / "run" / "log.jsonl"
    assert not log.exists() or not log.read_text()


def test_a_run_trains_on_the_pieces_of_a_long_recording(towers, manifest, tmp_path) -> None:
    config = config_from_dict(config_of(towers, manifest, long_audio="split"))
    train(config, tmp_path / "run", quiet=True)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert max(entry["step"] for entry in log) == 4


def test_pieces_are_as_long_as_asked_and_keep_the_transcript(manifest, processor) -> None:
    assert fit(manifest, processor, long_audio="split") == [
        "short: one",
        "long#1: one two",
        "long#2: three four",
        "long#3: five six",
    ]
    found = fit(manifest, processor, long_audio="split", max_clip_s=1)
    words = ["one", "two", "three", "four", "five", "six"]
    assert found == ["short: one", *(f"long#{n}: {word}" for n, word in enumerate(words, 1))]


def test_the_shortest_limit_counts(manifest, processor) -> None:
    with pytest.raises(
        ValueError, match=r"'short'.* lasts 1\.00 s, above 0\.9 s, data\.max_clip_s \(and 1 more"
    ):
        fit(manifest, processor, max_clip_s=0.9)
    with pytest.raises(ConfigError, match=r"max_clip_s is 3, but this encoder takes at most 2 s"):
        fit(manifest, processor, max_clip_s=3)


def test_a_row_without_words_cannot_be_split(manifest, processor) -> None:
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    del rows[1]["words"]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(
        ValueError, match=r"m\.jsonl:2: utterance 'long': it lasts 5\.00 s.*prepare words"
    ):
        fit(manifest, processor, long_audio="split")


def test_interleaved_spans_are_measured_and_not_split_again(manifest, processor) -> None:
    spans = {"text_words": [1, 1], "speech_words": [2, 2]}
    config = config_from_dict(config_of(("a", "b"), manifest, interleave=spans))
    rows = read_manifests([manifest])[1:]
    assert fit_long_audio(rows, config.data, processor) == rows
    config = config_from_dict(
        config_of(("a", "b"), manifest, interleave={**spans, "speech_words": [3, 3]})
    )
    with pytest.raises(ValueError, match=r"'long/.*what this encoder takes"):
        fit_long_audio(rows, config.data, processor)
    with pytest.raises(ConfigError, match=r"data\.interleave does: drop one of the two"):
        config_from_dict(config_of(("a", "b"), manifest, interleave=spans, long_audio="split"))


def test_another_policy_is_refused(manifest) -> None:
    with pytest.raises(ConfigError, match="long_audio"):
        config_from_dict(config_of(("a", "b"), manifest, long_audio="cut"))


def test_a_length_that_the_encoder_refuses_names_the_recording_before_it_is_decoded(
    manifest, processor
):
    dataset = SpeechTextDataset([manifest], processor)
    with pytest.raises(AudioError, match=rf"{LINES}: .*at most 2 s.*data\.long_audio=split"):
        dataset.lengths()


def test_what_slow_speech_makes_longer_than_the_encoder_takes_is_refused(
    towers, manifest, tmp_path
) -> None:
    rows = manifest.read_text().splitlines()
    manifest.write_text(rows[0] + "\n")  # of 1 s; the towers take 2
    data = config_of(towers, manifest, augment={"speeds": [0.5, 1]}, validation=[str(manifest)])
    train(config_from_dict(data), tmp_path / "fits", quiet=True)
    samples = np.zeros(17_000)
    soundfile.write(tmp_path / "short.wav", samples, 16_000)
    with pytest.raises(
        ValueError,
        match=r"lasts 1\.06 s, above 1 s, what this encoder takes, 2 s, at the slowest of",
    ):
        train(config_from_dict(data), tmp_path / "run", quiet=True)
