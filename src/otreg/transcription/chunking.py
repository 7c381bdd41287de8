"""Where to cut a recording into chunks.

Policies:
    "silence"   at the quietest places. Where none within reach is silent, the cut lies within
                speech: there, and only there, two chunks overlap.
    "fixed"     chunks of one length, each overlapping the next.

Chunks cover the recording without a gap, and no chunk is longer than asked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from otreg.transcription.survey import FRAME_S

POLICIES = ("silence", "fixed")
MIN_SILENCE_S = 0.2
"""Pauses between phrases are longer, the closures of stop consonants shorter."""

_QUIETER_THAN_SPEECH_DB = 35.0
_ABOVE_NOISE_DB = 6.0
_LEAST_DISTANCE_DB = 12.0  # between silence and speech, where noise is nearly as loud
_ALWAYS_SILENT_DB = -80.0  # a recording of nothing but hiss has no speech to compare with
_ALIKE_DB = 3.0
_IN_SPEECH_S = 0.06


@dataclass(frozen=True)
class Chunk:
    """A piece of a recording.

    Args:
        start_s: where what is decoded begins, in seconds from the start of the recording.
        end_s: where it ends.
        cut: how it ends: "silence" (there the next one starts), "overlap" (the next one starts
            before its end), or "end" (of the recording).

    """

    start_s: float
    end_s: float
    cut: Literal["silence", "overlap", "end"]


def chunks_at_silence(
    levels_db: np.ndarray,
    duration_s: float,
    *,
    max_s: float,
    overlap_s: float,
    min_silence_s: float = MIN_SILENCE_S,
) -> list[Chunk]:
    """Cut a recording in its pauses.

    A chunk ends in the second half of what it may be, within the longest silence that is there, at
    the quietest place of it. Without a silence it ends at the quietest instant, and goes on for half of
    the overlap, while the next one starts half of it earlier.

    Args:
        levels_db: (frames,) of 20 ms each, from `measure_levels`.
        duration_s: of the recording.
        max_s: longest chunk.
        overlap_s: what two chunks share around a cut within speech; at most half of max_s.
        min_silence_s: shortest silence; what is shorter counts as speech.

    Returns:
        The chunks in order; one, where the recording is short enough.

    Raises:
        ValueError: lengths out of range.

    """
    check_lengths(max_s, overlap_s)
    threshold_db = silence_threshold_db(levels_db)
    chunks = []
    start_s = 0.0
    while duration_s - start_s > max_s:
        first_s = start_s + max_s / 2
        last_s = min(start_s + max_s, duration_s - max_s / 8)  # leaves no crumb for the last chunk
        cut_s = _cut_in_silence(levels_db, first_s, last_s, threshold_db, min_silence_s)
        if cut_s is not None:
            chunks.append(Chunk(start_s, cut_s, "silence"))
            start_s = cut_s
        else:
            last_s = min(last_s, start_s + max_s - overlap_s / 2)
            cut_s = _quietest(levels_db, first_s, last_s)
            chunks.append(Chunk(start_s, min(cut_s + overlap_s / 2, duration_s), "overlap"))
            start_s = cut_s - overlap_s / 2
    return [*chunks, Chunk(start_s, duration_s, "end")]


def chunks_of_fixed_length(duration_s: float, *, max_s: float, overlap_s: float) -> list[Chunk]:
    """Cut a recording into the fewest chunks of one length that overlap.

    Args:
        duration_s: of the recording.
        max_s: longest chunk.
        overlap_s: what neighbours share; at most half of max_s.

    Returns:
        The chunks in order; one, where the recording is short enough.

    Raises:
        ValueError: lengths out of range.

    """
    check_lengths(max_s, overlap_s)
    count = max(1, math.ceil((duration_s - overlap_s) / (max_s - overlap_s) - 1e-9))
    step_s = (duration_s - overlap_s) / count if count > 1 else duration_s
    starts = [number * step_s for number in range(count)]
    return [Chunk(start_s, start_s + step_s + overlap_s, "overlap") for start_s in starts[:-1]] + [
        Chunk(starts[-1], duration_s, "end")
    ]


def check_lengths(max_s: float, overlap_s: float) -> None:
    """Refuse chunks and overlaps that make no progress."""
    if not (0 < max_s < math.inf and 0 <= overlap_s <= max_s / 2):
        raise ValueError(
            "expected chunks of more than 0 s and an overlap of at most half of that, received "
            f"{max_s:g} and {overlap_s:g} s"
        )


def silence_threshold_db(levels_db: np.ndarray) -> float:
    """The level below which a frame counts as silent, by the recording itself.

    It is 35 dB below speech, or, where noise fills the pauses, 6 dB above the tenth percentile of
    all frames, but always 12 dB below speech; below -80 dB everything is silent. The level of
    speech is the mean power of the frames above the mean power of all, so that it does not depend on
    how much of the recording is silent.

    Args:
        levels_db: (frames,).

    Returns:
        The threshold, in decibels of full scale.

    """
    power = 10 ** (np.asarray(levels_db, dtype=np.float64) / 10)
    speech_db = 10 * float(np.log10(power[power >= power.mean() * (1 - 1e-9)].mean()))
    noise_db = float(np.percentile(levels_db, 10))
    threshold_db = max(speech_db - _QUIETER_THAN_SPEECH_DB, noise_db + _ABOVE_NOISE_DB)
    return max(min(threshold_db, speech_db - _LEAST_DISTANCE_DB), _ALWAYS_SILENT_DB)


def _cut_in_silence(
    levels_db: np.ndarray,
    first_s: float,
    last_s: float,
    threshold_db: float,
    min_silence_s: float,
) -> float | None:
    """The best place to cut between two times in a silence that is long enough."""
    centres, around = _windows(levels_db, first_s, last_s, min_silence_s)
    if not len(centres):
        return None
    silent = around.max(1) <= threshold_db
    quiet_db = around.mean(1)
    runs = np.split(np.arange(len(silent)), np.flatnonzero(np.diff(silent)) + 1)
    runs = [run for run in runs if silent[run[0]]]
    if not runs:
        return None
    longest = max(reversed(runs), key=len)
    alike = longest[quiet_db[longest] <= quiet_db[longest].min() + _ALIKE_DB]
    middle = longest[len(longest) // 2]
    return float(centres[alike[np.abs(alike - middle).argmin()]])


def _quietest(levels_db: np.ndarray, first_s: float, last_s: float) -> float:
    """The quietest instant between two times; the middle of them where there is nothing to see."""
    centres, around = _windows(levels_db, first_s, last_s, _IN_SPEECH_S)
    return float(centres[around.mean(1).argmin()]) if len(centres) else (first_s + last_s) / 2


def _windows(
    levels_db: np.ndarray, first_s: float, last_s: float, length_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """Times of frame borders from first_s to last_s, (places,), and the frames around each.

    Returns:
        Times in seconds, and levels (places, frames), for the places that have frames on both
        sides.

    """
    half = max(1, math.ceil(length_s / FRAME_S / 2 - 1e-6))
    first = max(math.ceil(first_s / FRAME_S - 1e-6), half)
    last = min(math.floor(last_s / FRAME_S + 1e-6), len(levels_db) - half)
    if last < first:
        return np.zeros(0), np.zeros((0, 2 * half))
    around = np.lib.stride_tricks.sliding_window_view(
        levels_db[first - half : last + half], 2 * half
    )
    return np.arange(first, last + 1) * FRAME_S, around
