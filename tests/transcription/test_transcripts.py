"""Files of transcripts: text, SubRip, WebVTT, JSON."""

from __future__ import annotations

import json

from otreg.transcription import FORMATS, Segment, Transcript

TRANSCRIPT = Transcript(
    "talk.wav",
    "en",
    3725.5,
    "silence",
    25.0,
    2.0,
    (
        Segment(0.0, 20.0, "salt & pepper", False, "silence"),
        Segment(20.0, 21.5, "", False, "silence"),
        Segment(21.5, 3661.0625, "a <b>\n\nc", True, "overlap", False),
        Segment(3661.0625, 3725.5, "done", False, "end"),
    ),
)


def test_text_is_all_of_it_and_a_line_break() -> None:
    assert FORMATS["text"](TRANSCRIPT) == "salt & pepper a <b>\n\nc done\n"


def test_subrip_has_numbered_cues_without_empty_lines_inside() -> None:
    assert FORMATS["srt"](TRANSCRIPT) == (
        "1\n00:00:00,000 --> 00:00:20,000\nsalt & pepper\n\n"
        "2\n00:00:21,500 --> 01:01:01,062\na <b> c\n\n"
        "3\n01:01:01,062 --> 01:02:05,500\ndone\n\n"
    )


def test_webvtt_escapes_what_would_be_markup() -> None:
    assert FORMATS["vtt"](TRANSCRIPT) == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:20.000\nsalt &amp; pepper\n\n"
        "00:00:21.500 --> 01:01:01.062\na &lt;b&gt; c\n\n"
        "01:01:01.062 --> 01:02:05.500\ndone\n\n"
    )


def test_json_has_all_segments_and_what_is_not_sure() -> None:
    written = FORMATS["json"](TRANSCRIPT)
    assert written.count("\n") == 1
    record = json.loads(written)
    assert record["text"] == TRANSCRIPT.text
    assert (record["file"], record["language"], record["duration_s"]) == ("talk.wav", "en", 3725.5)
    assert (record["policy"], record["max_chunk_s"], record["overlap_s"]) == ("silence", 25, 2)
    assert record["segments"][2] == {
        "start_s": 21.5,
        "end_s": 3661.0625,
        "text": "a <b>\n\nc",
        "hit_limit": True,
        "cut": "overlap",
        "matched": False,
    }
    assert (record["num_overlaps"], record["num_hit_limit"]) == (1, 1)
    assert record["warnings"] == TRANSCRIPT.warnings()
    assert len(record["warnings"]) == 2


def test_a_recording_of_nothing_has_subtitles_without_cues() -> None:
    silent = Transcript(
        "a.wav", "", 1.0, "silence", 25.0, 2.0, (Segment(0.0, 1.0, "", False, "end"),)
    )
    assert [FORMATS[name](silent) for name in ("text", "srt", "vtt")] == ["\n", "", "WEBVTT\n\n"]
