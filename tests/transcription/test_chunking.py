"""Chunks cover a recording without a gap and are no longer than asked, whatever its levels are."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from otreg.transcription.chunking import (
    chunks_at_silence,
    chunks_of_fixed_length,
    silence_threshold_db,
)
from otreg.transcription.survey import FRAME_S

SPEECH_DB, SILENT_DB = -20.0, -70.0


def levels(duration_s: float, *pauses: tuple[float, float], depth_db: float = SILENT_DB):
    """Speech with pauses, each (start, end) in seconds."""
    found = np.full(round(duration_s / FRAME_S), SPEECH_DB, dtype=np.float32)
    for start_s, end_s in pauses:
        found[round(start_s / FRAME_S) : round(end_s / FRAME_S)] = depth_db
    return found


def assert_covers(chunks, duration_s, max_s, overlap_s) -> None:
    assert (chunks[0].start_s, chunks[-1].end_s, chunks[-1].cut) == (0, duration_s, "end")
    assert all(0 < chunk.end_s - chunk.start_s <= max_s + 1e-9 for chunk in chunks)
    for one, two in pairwise(chunks):
        shared_s = overlap_s if one.cut == "overlap" else 0
        assert one.end_s - two.start_s == pytest.approx(shared_s)
        assert one.cut != "end"


@pytest.mark.parametrize("seed", range(30))
def test_chunks_cover_any_recording(seed: int) -> None:
    rng = np.random.default_rng(seed)
    max_s = float(rng.uniform(0.5, 30))
    duration_s = float(rng.uniform(0.1, 12)) * max_s
    overlap_s = float(rng.uniform(0, 0.5)) * max_s
    noise = rng.uniform(-60, -15, int(np.ceil(duration_s / FRAME_S)))
    smooth = np.convolve(noise, np.ones(9) / 9, "same").astype(np.float32)
    smooth[rng.random(len(smooth)) < rng.choice([0, 0.02])] = -100
    cuts = {"max_s": max_s, "overlap_s": overlap_s}
    assert_covers(chunks_at_silence(smooth, duration_s, **cuts), duration_s, **cuts)
    fixed = chunks_of_fixed_length(duration_s, **cuts)
    assert_covers(fixed, duration_s, **cuts)
    lengths = [chunk.end_s - chunk.start_s for chunk in fixed]
    assert max(lengths) == pytest.approx(min(lengths))


def test_a_cut_is_in_the_middle_of_the_longest_pause_of_the_second_half() -> None:
    found = levels(20, (2, 4), (6, 6.3), (7, 7.8), (9, 9.4))
    first, *_ = chunks_at_silence(found, 20, max_s=10, overlap_s=1)
    assert first.cut == "silence"
    assert first.end_s == pytest.approx(7.4, abs=0.021)


def test_a_quiet_voice_in_a_long_pause_is_not_cut() -> None:
    """45 dB below the loud one: taken for silence, yet the cut is where it pauses."""
    found = levels(20, (5.5, 9.5))
    found[round(6 / FRAME_S) : round(8.5 / FRAME_S)] = -65
    found[round(5.5 / FRAME_S) : round(6 / FRAME_S)] = -80
    found[round(8.5 / FRAME_S) : round(9.5 / FRAME_S)] = -80
    first, *_ = chunks_at_silence(found, 20, max_s=10, overlap_s=1)
    assert first.cut == "silence"
    assert not 5.95 < first.end_s < 8.55


@pytest.mark.parametrize(
    ("pause_s", "cut"), [(0.1, "overlap"), (0.18, "overlap"), (0.24, "silence")]
)
def test_a_pause_shorter_than_the_shortest_silence_counts_as_speech(pause_s, cut) -> None:
    found = levels(20, (7, 7 + pause_s))
    first, second, *_ = chunks_at_silence(found, 20, max_s=10, overlap_s=2)
    assert first.cut == cut
    middle_s = (first.end_s + second.start_s) / 2
    assert 7 <= middle_s <= 7 + pause_s  # it is still the quietest place
    short = chunks_at_silence(found, 20, max_s=10, overlap_s=2, min_silence_s=0.08)
    assert short[0].cut == "silence"


def test_the_threshold_follows_speech_noise_and_how_near_they_are() -> None:
    half = np.full(100, SPEECH_DB)
    assert silence_threshold_db(np.r_[half, np.full(100, -100)]) == pytest.approx(-55, abs=0.1)
    assert silence_threshold_db(np.r_[half, np.full(100, -45)]) == pytest.approx(-39, abs=0.1)
    assert silence_threshold_db(np.r_[half, np.full(100, -28)]) == pytest.approx(-32, abs=0.1)
    sparse = np.r_[np.full(10, SPEECH_DB), np.full(990, -100)]
    assert silence_threshold_db(sparse) == pytest.approx(-55, abs=0.1)


def test_an_hour_of_nothing_is_silence() -> None:
    chunks = chunks_at_silence(np.full(180_000, -100, np.float32), 3600, max_s=25, overlap_s=2)
    assert {chunk.cut for chunk in chunks[:-1]} == {"silence"}


@pytest.mark.parametrize(
    ("max_s", "overlap_s"),
    [(0, 0), (-1, 0), (10, 5.1), (10, -1), (float("inf"), 1), (float("nan"), 0)],
)
def test_lengths_that_make_no_progress_are_refused(max_s, overlap_s) -> None:
    for cut in (
        lambda: chunks_at_silence(levels(20), 20, max_s=max_s, overlap_s=overlap_s),
        lambda: chunks_of_fixed_length(20, max_s=max_s, overlap_s=overlap_s),
    ):
        with pytest.raises(ValueError, match="overlap of at most half of that, received"):
            cut()
