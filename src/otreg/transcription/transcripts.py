"""What was said in a recording, with times, and how it is written: text, SRT, WebVTT, JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

from otreg.transcription.joining import join_texts


@dataclass(frozen=True)
class Segment:
    """A piece of a recording and its text.

    Args:
        start_s: in seconds from the start of the recording. Segments follow each other without a
            gap; where two chunks overlapped, the border is the middle of the overlap.
        end_s: likewise.
        text: what was said; "" where nothing was heard.
        hit_limit: whether decoding stopped at max_new_tokens, so that words may be missing.
        cut: how the segment ends: "silence", "overlap" (the cut lies within speech, or was made
            without looking) or "end" (of the recording).
        matched: at an "overlap", whether its two texts have words in common; if not, words in it
            may stand there twice. None elsewhere.

    """

    start_s: float
    end_s: float
    text: str
    hit_limit: bool
    cut: Literal["silence", "overlap", "end"]
    matched: bool | None = None


@dataclass(frozen=True)
class Transcript:
    """What was said in a recording.

    Args:
        file: as it was named.
        language: code, "" where none was given.
        duration_s: of the recording.
        policy: how it was cut, a name of `POLICIES`.
        max_chunk_s: longest chunk, in seconds.
        overlap_s: what two chunks share where a cut lies within speech, in seconds.
        segments: in order.

    """

    file: str
    language: str
    duration_s: float
    policy: str
    max_chunk_s: float
    overlap_s: float
    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        """All that was said."""
        return join_texts([segment.text for segment in self.segments], self.language)

    def warnings(self) -> list[str]:
        """What a reader of the text has to know, a sentence each."""
        found = []
        for segment in self.segments:
            span = f"{self.file}, {segment.start_s:.1f} to {segment.end_s:.1f} s"
            if segment.hit_limit:
                found.append(
                    f"{span}: decoding stopped at the most tokens it may make, so words may be "
                    "missing; raise --max-new-tokens (max_new_tokens), or make chunks shorter"
                )
            if segment.matched is False:
                found.append(
                    f"{span}: the overlap at its end was heard differently on both sides, so words "
                    "may stand there twice"
                )
        return found


def as_text(transcript: Transcript) -> str:
    """The text and a line break."""
    return transcript.text + "\n"


def as_json(transcript: Transcript) -> str:
    """One JSON object on a line: the transcript's fields, its text, and what was not sure."""
    cuts = [segment.cut for segment in transcript.segments]
    record = {"file": transcript.file, "text": transcript.text, **asdict(transcript)}
    record["num_overlaps"] = cuts.count("overlap")
    record["num_hit_limit"] = sum(segment.hit_limit for segment in transcript.segments)
    record["warnings"] = transcript.warnings()
    return json.dumps(record, ensure_ascii=False) + "\n"


def as_srt(transcript: Transcript) -> str:
    """SubRip: numbered cues; segments in which nothing was heard have none."""
    spoken = [segment for segment in transcript.segments if segment.text.strip()]
    return "".join(
        f"{number}\n{_span(segment, ',')}\n{_one_line(segment.text)}\n\n"
        for number, segment in enumerate(spoken, 1)
    )


def as_vtt(transcript: Transcript) -> str:
    """WebVTT, as https://www.w3.org/TR/webvtt1 has it; empty segments have no cue."""
    cues = [
        f"{_span(segment, '.')}\n{_escaped(_one_line(segment.text))}\n\n"
        for segment in transcript.segments
        if segment.text.strip()
    ]
    return "WEBVTT\n\n" + "".join(cues)


FORMATS: dict[str, Callable[[Transcript], str]] = {
    "text": as_text,
    "srt": as_srt,
    "vtt": as_vtt,
    "json": as_json,
}
"""How a transcript is written, by name."""

SUFFIXES = {"text": ".txt", "srt": ".srt", "vtt": ".vtt", "json": ".json"}


def _span(segment: Segment, point: str) -> str:
    return f"{_clock(segment.start_s, point)} --> {_clock(segment.end_s, point)}"


def _clock(seconds: float, point: str) -> str:
    """3661.5 -> 01:01:01.500"""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02d}:{minute:02d}:{second:02d}{point}{milliseconds:03d}"


def _one_line(text: str) -> str:
    """An empty line would end a cue."""
    return " ".join(text.split())


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
