"""Answers: OpenAI's response formats and the events of its streams."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
STREAMED = ("json", "text")
MEDIA_TYPES = {
    "json": "application/json",
    "verbose_json": "application/json",
    "text": "text/plain; charset=utf-8",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
}


@dataclass(frozen=True)
class Segment:
    """A piece of a recording and what is said in it.

    Args:
        start_s, end_s: where it is in the recording, in seconds.
        text: its transcript.
        hit_limit: whether decoding stopped at the limit of tokens, so that words may be missing.
    """

    start_s: float
    end_s: float
    text: str
    hit_limit: bool = False


def render(
    response_format: str,
    text: str,
    segments: Sequence[Segment],
    *,
    language: str,
    duration_s: float,
) -> str:
    """Write an answer's body.

    Args:
        response_format: one of FORMATS.
        text: the whole transcript.
        segments: at least one, in order.
        language: what was asked for; "" where nothing was.
        duration_s: of the recording.
    """
    if response_format == "text":
        return f"{text}\n"
    if response_format == "srt":
        return _srt(segments)
    if response_format == "vtt":
        return _vtt(segments)
    body: dict[str, Any] = {"text": text}
    if response_format == "verbose_json":
        body = {
            "task": "transcribe",
            "language": language,
            "duration": round(duration_s, 3),
            **body,
            "segments": [_record(number, segment) for number, segment in enumerate(segments)],
        }
    body["usage"] = {"type": "duration", "seconds": round(duration_s, 3)}
    if any(segment.hit_limit for segment in segments):
        body["hit_token_limit"] = True
    return json.dumps(body)


def delta_event(delta: str) -> str:
    """A server-sent event: what a piece adds to the transcript."""
    return _event({"type": "transcript.text.delta", "delta": delta})


def done_event(text: str, *, hit_limit: bool) -> str:
    """A server-sent event: the whole transcript."""
    body: dict[str, Any] = {"type": "transcript.text.done", "text": text}
    return _event(body | ({"hit_token_limit": True} if hit_limit else {}))


def error_event(body: dict[str, Any]) -> str:
    """A server-sent event: what stopped the stream."""
    return _event(body)


def _event(body: dict[str, Any]) -> str:
    # json.dumps escapes all line ends, U+2028 among them, at which some clients would cut the line.
    return f"data: {json.dumps(body)}\n\n"


def _record(number: int, segment: Segment) -> dict[str, Any]:
    """A segment as OpenAI's; what is not measured here is null, never a made-up number."""
    return {
        "id": number,
        "seek": round(segment.start_s * 100),  # in frames of 10 ms, as Whisper counts
        "start": round(segment.start_s, 3),
        "end": round(segment.end_s, 3),
        "text": segment.text,
        "tokens": None,
        "temperature": 0.0,
        "avg_logprob": None,
        "compression_ratio": None,
        "no_speech_prob": None,
    }


def _srt(segments: Sequence[Segment]) -> str:
    return "".join(
        f"{number}\n{_time(segment.start_s, ',')} --> {_time(segment.end_s, ',')}\n"
        f"{_line(segment.text)}\n\n"
        for number, segment in enumerate(_spoken(segments), 1)
    )


def _vtt(segments: Sequence[Segment]) -> str:
    cues = "".join(
        f"{_time(segment.start_s, '.')} --> {_time(segment.end_s, '.')}\n"
        f"{html.escape(_line(segment.text), quote=False)}\n\n"
        for segment in _spoken(segments)
    )
    return f"WEBVTT\n\n{cues}"


def _spoken(segments: Sequence[Segment]) -> list[Segment]:
    return [segment for segment in segments if segment.text.strip()]


def _line(text: str) -> str:
    """The text as one line: an empty line would end its cue, and an arrow would be a time."""
    return " ".join(text.split()).replace("-->", "->")


def _time(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    whole, milliseconds = divmod(milliseconds, 1000)
    minutes, whole = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{whole:02d}{point}{milliseconds:03d}"
