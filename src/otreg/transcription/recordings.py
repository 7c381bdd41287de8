"""Recordings to transcripts: surveyed, cut, decoded in bounded groups of chunks, and joined."""

from __future__ import annotations

import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from otreg.data.audio import MAX_DURATION_S, audio_info
from otreg.data.utterance import Utterance
from otreg.model.features import longest_audio_s
from otreg.model.generation import Transcription
from otreg.model.generation import transcribe as decode
from otreg.transcription.chunking import (
    MIN_SILENCE_S,
    POLICIES,
    Chunk,
    check_lengths,
    chunks_at_silence,
    chunks_of_fixed_length,
)
from otreg.transcription.joining import count_words, join
from otreg.transcription.survey import survey
from otreg.transcription.transcripts import Segment, Transcript

DEFAULT_CHUNK_S = 25.0
DEFAULT_OVERLAP_S = 2.0
_BATCHES_IN_A_GROUP = 4
_ROUNDING_S = 0.001  # a chunk's ends are rounded to samples, and must not pass the encoder's limit

Recognise = Callable[..., Sequence[Transcription]]


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
        longest_s = longest_audio_s(getattr(processor, "feature_extractor", None))
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


@dataclass
class _Work:
    """A recording on its way: its chunks, and what was heard in them so far."""

    recording: Utterance
    duration_s: float
    chunks: list[Chunk] = field(default_factory=list)
    heard: list[Transcription] = field(default_factory=list)
    done_s: float = 0.0
    copy: Path | None = None

    @property
    def is_done(self) -> bool:
        return bool(self.chunks) and len(self.heard) == len(self.chunks)


def transcribe_recordings(
    model: Any,
    processor: Any,
    recordings: Sequence[str | Path],
    *,
    language: str = "",
    options: Options | None = None,
    batch_size: int = 16,
    max_new_tokens: int = 200,
    device: Any = None,
    progress: bool = False,
    recognise: Recognise = decode,
) -> Iterator[Transcript]:
    """Transcribe recordings of any length, each as soon as it is done.

    A recording that is short enough is decoded as it is. Every longer one is surveyed in one
    streamed pass, cut, and decoded in groups of a few batches, so memory does not grow with its
    length (but for one number per 20 ms). Short recordings share batches.

    Args:
        model, processor: as for `otreg.model.generation.transcribe`.
        recordings: sound files.
        language: code of all of them; names the language in prompts, and decides whether words or
            characters are joined.
        options: how to cut; None = the defaults of `Options`.
        batch_size: chunks decoded together.
        max_new_tokens: most tokens for a chunk.
        device: where to decode; None = where the model is.
        progress: a bar on stderr, in seconds of sound.
        recognise: decodes chunks: called as `otreg.model.generation.transcribe`.

    Yields:
        One transcript per recording, in their order.

    Raises:
        AudioError: audio that cannot be used; all headers are checked before anything is decoded.
        ValueError: options out of range.

    """
    options = options or Options()
    max_s, overlap_s = options.lengths_s(processor)
    works = [
        _Work(recording, audio_info(recording, max_duration_s=float("inf")).duration_s)
        for recording in (
            Utterance(f"{number}: {path}", Path(path).resolve(), language=language)
            for number, path in enumerate(recordings, 1)
        )
    ]
    waiting = deque(zip(recordings, works, strict=True))
    more = {"device": device} if device is not None else {}
    with tempfile.TemporaryDirectory(prefix="otreg-") as folder, _bar(works, progress) as bar:
        pieces = _pieces(works, options, max_s, overlap_s, folder)
        while group := list(islice(pieces, _BATCHES_IN_A_GROUP * batch_size)):
            heard = recognise(
                model,
                processor,
                [piece for _, _, piece in group],
                batch_size=batch_size,
                max_new_tokens=max_new_tokens,
                progress=False,
                **more,
            )
            for (work, chunk, _), result in zip(group, heard, strict=True):
                work.heard.append(result)
                bar.update(chunk.end_s - work.done_s)
                work.done_s = chunk.end_s
            while waiting and waiting[0][1].is_done:
                path, work = waiting.popleft()
                if work.copy is not None:
                    work.copy.unlink()
                yield Transcript(
                    str(path),
                    language,
                    work.duration_s,
                    options.policy,
                    max_s,
                    overlap_s,
                    _segments(work, language),
                )


def _pieces(
    works: Sequence[_Work], options: Options, max_s: float, overlap_s: float, folder: str
) -> Iterator[tuple[_Work, Chunk, Utterance]]:
    """The chunks of all recordings as utterances; a recording is surveyed when its turn comes."""
    for work in works:
        if work.duration_s <= max_s:
            work.chunks = [Chunk(0.0, work.duration_s, "end")]
            yield work, work.chunks[0], work.recording
            continue
        found = survey(work.recording, folder)
        if found.audio != work.recording.audio:
            work.copy = found.audio
        shorter_s = max_s - _ROUNDING_S
        if options.policy == "fixed":
            work.chunks = chunks_of_fixed_length(
                found.duration_s, max_s=shorter_s, overlap_s=overlap_s
            )
        else:
            work.chunks = chunks_at_silence(
                found.levels_db,
                found.duration_s,
                max_s=shorter_s,
                overlap_s=overlap_s,
                min_silence_s=options.min_silence_s,
            )
        for number, chunk in enumerate(work.chunks, 1):
            piece = replace(
                work.recording,
                id=f"{work.recording.id}#{number}",
                audio=found.audio,
                start_s=found.offset_s + chunk.start_s,
                end_s=found.offset_s + chunk.end_s,
            )
            yield work, chunk, piece


def _bar(works: Sequence[_Work], progress: bool) -> Any:
    """A bar over all seconds of sound; none where stderr is no terminal."""
    from tqdm.auto import tqdm

    return tqdm(
        total=round(sum(work.duration_s for work in works), 1),
        desc="transcribing",
        unit="s",
        bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} s of sound [{elapsed}<{remaining}]",
        disable=None if progress else True,
        file=sys.stderr,
        leave=False,
    )


def _segments(work: _Work, language: str) -> tuple[Segment, ...]:
    """The texts of a recording's chunks, joined, each with its share of the time."""
    texts = [result.hypothesis for result in work.heard]
    speeds = [
        count_words(text, language) / (chunk.end_s - chunk.start_s)
        for text, chunk in zip(texts, work.chunks, strict=True)
    ]
    matched: list[bool | None] = [None] * len(texts)
    starts = [chunk.start_s for chunk in work.chunks]
    ends = [chunk.end_s for chunk in work.chunks]
    for number, chunk in enumerate(work.chunks):
        if chunk.cut == "overlap":
            shared_s = ends[number] - starts[number + 1]
            seam = join(
                *texts[number : number + 2],
                overlap_s=shared_s,
                language=language,
                words_per_s=max(speeds[number : number + 2]),
            )
            texts[number : number + 2] = seam.left, seam.right
            matched[number] = seam.matched
            ends[number] = starts[number + 1] = ends[number] - shared_s / 2
    return tuple(
        Segment(round(start_s, 3), round(end_s, 3), text, result.hit_limit, chunk.cut, known)
        for start_s, end_s, text, result, chunk, known in zip(
            starts, ends, texts, work.heard, work.chunks, matched, strict=True
        )
    )
