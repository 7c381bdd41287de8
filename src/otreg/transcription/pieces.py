"""A recording as pieces that a model takes, and what was heard in them as the recording's segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from otreg.data.audio import MAX_DURATION_S
from otreg.data.utterance import Utterance
from otreg.model.features import longest_audio_s
from otreg.model.generation import Transcription
from otreg.transcription.chunking import (
    MIN_SILENCE_S,
    POLICIES,
    Chunk,
    check_lengths,
    chunks_at_silence,
    chunks_of_fixed_length,
)
from otreg.transcription.joining import count_words, join, join_texts
from otreg.transcription.survey import survey
from otreg.transcription.transcripts import Segment

DEFAULT_CHUNK_S = 25.0
DEFAULT_OVERLAP_S = 2.0
_ROUNDING_S = 0.001  # a chunk's ends are rounded to samples, and must not pass the encoder's limit


@dataclass(frozen=True)
class Options:
    """How recordings are cut.

    Args:
        policy: "silence" or "fixed", see `otreg.transcription.chunking`.
        max_chunk_s: longest chunk; None = 25 s, or what the model takes, if that is less.
        overlap_s: what two chunks share where they overlap; None = 2 s, at most a quarter of a
            chunk.
        min_silence_s: shortest pause that "silence" cuts in without an overlap.

    Raises:
        ValueError: another policy, or a pause of no length.

    """

    policy: str = "silence"
    max_chunk_s: float | None = None
    overlap_s: float | None = None
    min_silence_s: float = MIN_SILENCE_S

    def __post_init__(self) -> None:
        if not 0 < self.min_silence_s < float("inf"):
            raise ValueError(f"min_silence_s must be above 0, received {self.min_silence_s:g}")
        if self.policy not in POLICIES:
            raise ValueError(f"policy must be {' or '.join(POLICIES)}, received {self.policy!r}")

    def lengths_s(self, processor: Any) -> tuple[float, float]:
        """Longest chunk and overlap for a model.

        Args:
            processor: the model's; its feature extractor says how long audio may be.

        Raises:
            ValueError: chunks longer than the model takes, or lengths out of range.

        """
        longest_s = longest_audio_s(processor)
        limit_s = MAX_DURATION_S if longest_s is None else min(longest_s, MAX_DURATION_S)
        max_s = min(DEFAULT_CHUNK_S, limit_s) if self.max_chunk_s is None else self.max_chunk_s
        if max_s > limit_s:
            raise ValueError(
                f"chunks of {max_s:g} s are more than the model takes at once, {limit_s:g} s; lower "
                "--max-chunk-s (max_chunk_s)"
            )
        default_s = min(DEFAULT_OVERLAP_S, max_s / 4)
        overlap_s = default_s if self.overlap_s is None else self.overlap_s
        check_lengths(max_s, overlap_s)
        return max_s, overlap_s


def cut(
    recording: Utterance,
    duration_s: float,
    options: Options,
    lengths_s: tuple[float, float],
    folder: str | Path,
) -> list[tuple[Chunk, Utterance]]:
    """Cut a recording; one that is short enough is its only piece, as it is.

    Args:
        recording: of any length.
        duration_s: of the recording, from its header.
        options: how to cut.
        lengths_s: longest chunk and overlap, from `Options.lengths_s`.
        folder: where a copy may be written that the pieces are read from, see `survey`.

    Returns:
        The chunks, each with the utterance to decode.

    Raises:
        AudioError: audio that cannot be decoded in full.
    """
    max_s, overlap_s = lengths_s
    if duration_s <= max_s:
        return [(Chunk(0.0, duration_s, "end"), recording)]
    found = survey(recording, folder)
    shorter_s = max_s - _ROUNDING_S
    overlap_s = min(overlap_s, shorter_s / 2)
    if options.policy == "fixed":
        chunks = chunks_of_fixed_length(found.duration_s, max_s=shorter_s, overlap_s=overlap_s)
    else:
        chunks = chunks_at_silence(
            found.levels_db,
            found.duration_s,
            max_s=shorter_s,
            overlap_s=overlap_s,
            min_silence_s=options.min_silence_s,
        )
    return [
        (
            chunk,
            replace(
                recording,
                id=f"{recording.id}#{number}",
                audio=found.audio,
                start_s=found.offset_s + chunk.start_s,
                end_s=found.offset_s + chunk.end_s,
            ),
        )
        for number, chunk in enumerate(chunks, 1)
    ]


class Joiner:
    """Puts what was heard in a recording's chunks together, as it comes.

    A chunk's text is settled when it is added, or, where it overlaps the next one, when that is.

    Args:
        chunks: all of the recording, in order.
        language: code; decides whether words or characters are joined.

    Attributes:
        segments: the settled ones, each with its share of the time.
        text: of the settled ones; what `add` returned, one after the other.
    """

    def __init__(self, chunks: Sequence[Chunk], language: str) -> None:
        self.segments: list[Segment] = []
        self.text = ""
        self._chunks = list(chunks)
        self._language = language
        self._held: tuple[str, float, Transcription] | None = None  # text, start, as it was heard

    def add(self, heard: Transcription) -> str:
        """Take what was heard in the next chunk; return what is settled by it of the text."""
        number = len(self.segments) + (self._held is not None)
        chunk = self._chunks[number]
        text, start_s, before = heard.hypothesis, chunk.start_s, self.text
        if self._held is not None:
            left, left_start_s, left_heard = self._held
            other = self._chunks[number - 1]
            shared_s = other.end_s - chunk.start_s
            speeds = (self._speed(left_heard, other), self._speed(heard, chunk))
            seam = join(
                left, text, overlap_s=shared_s, language=self._language, words_per_s=max(speeds)
            )
            start_s = other.end_s - shared_s / 2
            self._settle(seam.left, left_start_s, start_s, left_heard, other, seam.matched)
            text, self._held = seam.right, None
        if chunk.cut == "overlap":
            self._held = (text, start_s, heard)
        else:
            self._settle(text, start_s, chunk.end_s, heard, chunk, None)
        return self.text[len(before) :]

    def _speed(self, heard: Transcription, chunk: Chunk) -> float:
        words = count_words(heard.hypothesis, self._language)
        return words / (chunk.end_s - chunk.start_s)

    def _settle(
        self,
        text: str,
        start_s: float,
        end_s: float,
        heard: Transcription,
        chunk: Chunk,
        matched: bool | None,
    ) -> None:
        times = round(start_s, 3), round(end_s, 3)
        self.segments.append(Segment(*times, text, heard.hit_limit, chunk.cut, matched))
        self.text = join_texts([self.text, text], self._language)
