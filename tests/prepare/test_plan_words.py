"""Word times from a plan: planted plans, and a real model's plan end to end."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from tiny_run import WORDS, save_corpus, save_towers

from otreg.data.manifest import Utterance, read_manifest
from otreg.model import SpeechLMForConditionalGeneration, SpeechLMProcessor
from otreg.prepare.plan_words import (
    PARTS,
    PlanWords,
    TokenPlan,
    interpolated,
    plan_of,
    words_of_plan,
)
from otreg.prepare.program import Unusable
from otreg.prepare.words import prepare_words

FRAME_S = 0.08


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return save_towers(tmp_path_factory.mktemp("towers"))


@pytest.fixture(scope="module")
def model_and_processor(towers):
    model = SpeechLMForConditionalGeneration.from_towers(
        *map(str, towers), short_mel=True, adapter_stack=3
    )
    processor = SpeechLMProcessor.from_config(model.config, str(towers[0]), str(towers[1]))
    return model, processor


@pytest.fixture(scope="module")
def tokenizer(towers) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(towers[1])


def planted_plan(
    tokenizer, text: str, rng: np.random.Generator, noise: float
) -> tuple[TokenPlan, list[tuple[float, float]]]:
    """A plan whose tokens hold 1 to 4 frames with pauses between words, and the words' true times."""
    ids = tokenizer(text)["input_ids"]
    labels = [tokenizer.decode([number]) for number in ids]
    rows: list[int] = []
    times: list[tuple[float, float]] = []
    opens = True
    for column, label in enumerate(labels):
        opens = opens or label.startswith(" ")
        if opens:
            rows += [-1] * int(rng.integers(0, 4))
        start = len(rows)
        rows += [column] * int(rng.integers(1, 5))
        if not label.strip():  # a space that is a token of its own belongs to no word
            continue
        if opens:
            times.append((start * FRAME_S, 0.0))
        opens = False
        times[-1] = (times[-1][0], len(rows) * FRAME_S)
    rows += [-1] * int(rng.integers(0, 4))
    shares = rng.uniform(0, noise, size=(len(rows), len(ids) + 1))
    shares[np.arange(len(rows)), rows] += 1
    shares /= shares.sum(axis=1, keepdims=True)
    return TokenPlan(shares, ids, len(rows) * FRAME_S), times


@pytest.mark.parametrize("seed", range(8))
def test_planted_words_are_found_through_noise_repetition_and_pauses(tokenizer, seed: int) -> None:
    rng = np.random.default_rng(seed)
    text = " ".join(rng.choice(WORDS[:4], size=6))  # words come back
    plan, times = planted_plan(tokenizer, text, rng, noise=0.3)
    found = words_of_plan(Utterance("u", None, text, "en"), plan, tokenizer)
    assert [word.word for word in found] == text.split()
    for word, (start_s, end_s) in zip(found, times, strict=True):
        assert word.start_s == pytest.approx(start_s, abs=FRAME_S / 2)
        assert word.end_s == pytest.approx(end_s, abs=FRAME_S / 2)


def test_more_tokens_than_parts_of_frames_are_unusable(tokenizer) -> None:
    text = "one two three four"
    plan, _ = planted_plan(tokenizer, text, np.random.default_rng(0), noise=0.0)
    short = replace(plan, shares=plan.shares[:1], duration_s=FRAME_S)
    assert len(plan.ids) > PARTS
    with pytest.raises(Unusable, match=r"1 frames of 0.08 s, too few for the") as error:
        words_of_plan(Utterance("u", None, text, "en"), short, tokenizer)
    assert error.value.reason == "more tokens than time"


def test_two_tokens_may_share_a_frame(tokenizer) -> None:
    text = "one two"
    ids = tokenizer(text)["input_ids"]
    shares = np.full((2, len(ids) + 1), 1e-3)
    first = next(i for i, number in enumerate(ids) if " " in tokenizer.decode([number]))
    shares[0, :first] = 1.0
    shares[1, first:-1] = 1.0
    assert len(ids) > 2
    plan = TokenPlan(shares / shares.sum(1, keepdims=True), ids, 2 * FRAME_S)
    found = words_of_plan(Utterance("u", None, text, "en"), plan, tokenizer)
    assert found[0].start_s == 0
    assert found[1].start_s == pytest.approx(FRAME_S, abs=FRAME_S / 4)
    assert found[1].end_s == 2 * FRAME_S


def test_interpolated_rows_lie_between_their_frames() -> None:
    shares = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert interpolated(shares, 1).tolist() == shares.tolist()
    assert interpolated(shares, 2)[:, 1].tolist() == [0.0, 0.25, 0.75, 1.0]
    assert np.allclose(interpolated(shares, 8).sum(axis=1), 1)


def test_a_plan_shares_each_frame_out_and_a_batch_changes_nothing(
    model_and_processor, tmp_path: Path
) -> None:
    rows = read_manifest(save_corpus(tmp_path, num_utterances=4))
    together = plan_of(*model_and_processor, rows)
    for row, plan in zip(rows, together, strict=True):
        assert plan.shares.shape[1] == len(plan.ids) + 1
        assert np.allclose(plan.shares.sum(1), 1)
        (alone,) = plan_of(*model_and_processor, [row])
        assert np.abs(alone.shares - plan.shares).max() < 0.02  # the solver's tolerance
        assert plan.ids == model_and_processor[1].tokenizer(row.text)["input_ids"]


def test_a_plan_reads_no_embedding_table(
    model_and_processor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = model_and_processor
    rows = read_manifest(save_corpus(tmp_path, num_utterances=2))
    before = plan_of(model, processor, rows)
    monkeypatch.setattr(type(model), "embedding_table", lambda _: pytest.fail("the whole table"))
    for plan, expected in zip(plan_of(model, processor, rows), before, strict=True):
        assert np.array_equal(plan.shares, expected.shares)


def test_a_merged_frame_stands_for_the_frames_it_was_made_of(
    model_and_processor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = model_and_processor
    rows = read_manifest(save_corpus(tmp_path, num_utterances=2))
    unmerged = [len(plan.shares) for plan in plan_of(model, processor, rows)]
    monkeypatch.setattr(model.config, "merge_threshold", -1.0)  # every pair is merged
    for plan, frames in zip(plan_of(model, processor, rows), unmerged, strict=True):
        assert len(plan.shares) == frames
        pairs = plan.shares[: frames // 2 * 2].reshape(-1, 2, plan.shares.shape[1])
        assert np.array_equal(pairs[:, 0], pairs[:, 1])


def test_a_saved_model_gives_words_to_a_manifest(model_and_processor, tmp_path: Path) -> None:
    model, processor = model_and_processor
    model.save_pretrained(tmp_path / "run" / "model")
    processor.save_pretrained(tmp_path / "run" / "model")
    manifest = save_corpus(tmp_path / "corpus", num_utterances=3)
    (tmp_path / "corpus" / "broken.wav").write_bytes(b"RIFF")
    lines = manifest.read_text()
    broken = '{"id": "b", "audio": "broken.wav", "text": "one", "language": "en"}\n'
    manifest.write_text(lines + broken)
    out = tmp_path / "corpus" / "words.jsonl"
    source = PlanWords.from_pretrained(tmp_path / "run")
    made = prepare_words([manifest], out, source, skip=True, quiet=True)
    assert made["counts"]["made"] == 3
    assert made["counts"]["skipped"] == {"audio that cannot be used": 1}
    assert made["settings"]["words"]["model"]["sha256"]
    for row in read_manifest(out):
        assert " ".join(word.word for word in row.words) == row.text
