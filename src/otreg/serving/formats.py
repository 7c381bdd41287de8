"""Answers: OpenAI's response formats and the events of its streams."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from otreg.transcription import FORMATS as SUBTITLES
from otreg.transcription import Segment, Transcript

FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
STREAMED = ("json", "text")
MEDIA_TYPES = {
    "json": "application/json",
    "verbose_json": "application/json",
    "text": "text/plain; charset=utf-8",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
}


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
    if response_format in ("srt", "vtt"):
        whole = Transcript("", language, duration_s, "", 0.0, 0.0, tuple(segments))
        return SUBTITLES[response_format](whole)
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
    if hit_limit(segments):
        body["hit_token_limit"] = True
    return json.dumps(body)


def hit_limit(segments: Sequence[Segment]) -> bool:
    """Whether decoding stopped at the limit of tokens somewhere, so that words may be missing."""
    return any(segment.hit_limit for segment in segments)


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
