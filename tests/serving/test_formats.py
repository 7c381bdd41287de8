"""Subtitles and events, written exactly."""

from __future__ import annotations

import json

import pytest

from otreg.serving.formats import delta_event, render
from otreg.transcription import Segment

SEGMENTS = [
    Segment(0.0, 1.9996, "one\n\ntwo", False, "silence"),
    Segment(2.0, 3.0, " ", False, "silence"),
    Segment(3599.5, 36_061.25, "a --> b & <c>", False, "end"),
]


def rendered(response_format):
    return render(response_format, "one two", SEGMENTS, language="", duration_s=36_061.25)


def test_srt_is_numbered_without_silent_segments():
    assert rendered("srt") == (
        "1\n00:00:00,000 --> 00:00:02,000\none two\n\n"
        "2\n00:59:59,500 --> 10:01:01,250\na --> b & <c>\n\n"
    )


def test_vtt_escapes_what_would_be_markup():
    assert rendered("vtt") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:02.000\none two\n\n"
        "00:59:59.500 --> 10:01:01.250\na --&gt; b &amp; &lt;c&gt;\n\n"
    )


def test_verbose_json_keeps_every_segment_as_it_is():
    body = json.loads(rendered("verbose_json"))
    assert [segment["text"] for segment in body["segments"]] == [s.text for s in SEGMENTS]
    assert [segment["id"] for segment in body["segments"]] == [0, 1, 2]
    assert [segment["seek"] for segment in body["segments"]] == [0, 200, 359_950]
    assert body["duration"] == 36_061.25
    assert "hit_token_limit" not in body


@pytest.mark.parametrize("text", ["a\nb", "a\u2028b", "a\x85b", "日本"])
def test_an_event_is_one_line(text):
    event = delta_event(text)
    assert event.endswith("\n\n")
    assert len(event.removesuffix("\n\n").splitlines()) == 1
    assert json.loads(event.removeprefix("data: "))["delta"] == text
