"""Recordings to transcripts: surveyed, cut, decoded in bounded groups of chunks, and joined."""

from __future__ import annotations

import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from otreg.data.audio import audio_info
from otreg.data.utterance import Utterance
from otreg.model.generation import Transcription
from otreg.model.generation import transcribe as decode
from otreg.transcription.chunking import Chunk
from otreg.transcription.pieces import Joiner, Options, cut
from otreg.transcription.transcripts import Segment, Transcript

_BATCHES_IN_A_GROUP = 4

Recognise = Callable[..., Sequence[Transcription]]


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
        model: as for `otreg.model.generation.transcribe`.
        processor: as for `otreg.model.generation.transcribe`.
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
        pieces = _pieces(works, options, (max_s, overlap_s), folder)
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
    works: Sequence[_Work], options: Options, lengths_s: tuple[float, float], folder: str
) -> Iterator[tuple[_Work, Chunk, Utterance]]:
    """The chunks of all recordings as utterances; a recording is surveyed when its turn comes."""
    for work in works:
        pieces = cut(work.recording, work.duration_s, options, lengths_s, folder)
        if pieces[0][1].audio != work.recording.audio:
            work.copy = Path(str(pieces[0][1].audio))
        work.chunks = [chunk for chunk, _ in pieces]
        for chunk, piece in pieces:
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
    joiner = Joiner(work.chunks, language)
    for result in work.heard:
        joiner.add(result)
    return tuple(joiner.segments)
