"""Rows of segments from manifest lines, and documents of written and spoken spans."""

from itertools import pairwise
from pathlib import Path

import pytest

from otreg.data.interleave import Interleaving
from otreg.data.messages import text_row
from otreg.data.segments import Row, Segment, row_of
from otreg.data.utterance import Utterance, Word

TEXT = "one two three four five six seven, eight nine ten!"


def spoken(text=TEXT, **changes):
    words = [
        Word(word, 0.5 * n, 0.5 * n + 0.4)
        for n, word in enumerate(text.replace(",", "").replace("!", "").split())
    ]
    return Utterance("u", Path("a.wav"), text, "en", words=tuple(words), **changes)


def test_a_line_without_messages_means_transcribe():
    row = row_of(Utterance("u", Path("a.wav"), "hi", "en", start_s=1.0, end_s=2.0))
    assert row.kind == "transcribe"
    assert [(s.kind, s.role, s.supervised, s.text) for s in row.segments] == [
        ("audio", "user", False, "hi"),
        ("text", "assistant", True, "hi"),
    ]
    assert (row.clips[0].start_s, row.clips[0].end_s, row.clips[0].id) == (1.0, 2.0, "u")
    assert row.answer == "hi"
    assert row.prompt().segments == row.segments[:1]
    assert row_of(Utterance("u", Path("a.wav"))).segments[-1].kind == "audio"


def test_a_row_that_is_all_answer_has_no_prompt():
    said = (Segment("text", "hi", "assistant", supervised=True),)
    for kind in ("document", "chat"):
        with pytest.raises(ValueError, match="nothing before its answer"):
            Row("u", kind, said).prompt()


def test_messages_become_segments_with_the_clips_that_they_name():
    part = {
        "type": "audio",
        "audio": Path("/b.wav"),
        "text": "other",
        "start_s": 0.5,
        "end_s": None,
    }
    messages = (
        {"role": "user", "content": ({"type": "audio"}, {"type": "text", "text": "or"}, part)},
        {"role": "assistant", "content": ({"type": "text", "text": "the first"},)},
    )
    row = row_of(Utterance("u", Path("a.wav"), "own", "en", messages=messages))
    assert row.kind == "chat"
    assert [clip.id for clip in row.clips] == ["u", "u/1"]
    assert [clip.text for clip in row.clips] == ["own", "other"]
    assert row.clips[1].start_s == 0.5
    assert row.answer == "the first"
    assert [s.supervised for s in row.segments] == [False, False, False, True]
    assert [s.role for s in row.segments] == ["user", "user", "user", "assistant"]
    assert [s.kind for s in row.segments] == ["audio", "text", "audio", "text"]


def test_a_line_without_audio_and_messages_is_refused():
    with pytest.raises(ValueError, match="'u' has neither audio nor messages"):
        row_of(Utterance("u", None, "hi"))
    messages = ({"role": "user", "content": ({"type": "audio"},)},)
    with pytest.raises(ValueError, match="its messages ask for the row's own audio"):
        row_of(Utterance("u", None, messages=messages))


@pytest.mark.parametrize("seed", range(6))
def test_a_document_is_the_text_cut_at_words_into_alternating_spans(seed):
    row = Interleaving((1, 3), (2, 3), seed)(spoken())
    assert row.kind == "document"
    assert "".join(segment.text for segment in row.segments) == TEXT
    kinds = [segment.kind for segment in row.segments]
    assert all(a != b for a, b in pairwise(kinds))
    assert set(kinds) == {"text", "audio"}
    for segment in row.segments:
        count = len(segment.text.split())
        is_last = segment is row.segments[-1]
        low, high = (2, 3) if segment.kind == "audio" else (1, 3)
        assert low <= count <= high or (is_last and count < low)
        assert segment.supervised == (segment.kind == "text")


def test_a_spoken_span_lasts_from_its_first_word_to_the_next_spans_first():
    row = Interleaving((1, 2), (2, 2), 3)(spoken(start_s=10.0))
    words = spoken().words
    place = 0
    for segment in row.segments:
        count = len(segment.text.split())
        if segment.kind == "audio":
            assert segment.content.start_s == 10.0 + words[place].start_s
            after = place + count
            expected = None if after == len(words) else 10.0 + words[after].start_s
            assert segment.content.end_s == expected
            assert segment.content.id == f"u/{place}-{after}"
        place += count
    assert place == 10


def test_the_same_seed_and_id_make_the_same_cuts():
    cut = Interleaving((1, 3), (1, 3), 5)
    assert cut(spoken()) == cut(spoken())
    others = [Interleaving((1, 3), (1, 3), seed)(spoken()) for seed in range(10)]
    assert len({tuple(s.text for s in row.segments) for row in others}) > 1


def test_words_that_are_not_those_of_the_text_are_refused():
    with pytest.raises(ValueError, match="has no word times to cut at"):
        Interleaving()(Utterance("u", Path("a.wav"), "hi"))
    wrong = Utterance("u", Path("a.wav"), "hi you", words=(Word("hi", 0, 1), Word("all", 1, 2)))
    with pytest.raises(ValueError, match=r"after 'hi' expected 'all', found \['you'\]"):
        Interleaving()(wrong)
    skipped = Utterance(
        "u", Path("a.wav"), "oh hi you", words=(Word("hi", 0, 1), Word("you", 1, 2))
    )
    with pytest.raises(ValueError, match="are not the words of its text"):
        Interleaving()(skipped)


def test_a_range_upside_down_is_refused():
    with pytest.raises(ValueError, match=r"text_words must be two numbers.*got \[3, 2\]"):
        Interleaving((3, 2))


def test_a_row_of_text_alone_is_a_document_as_a_whole():
    said = ({"type": "text", "text": "all of it"},)
    row = Interleaving()(Utterance("t", None, messages=({"role": "assistant", "content": said},)))
    assert [(s.kind, s.text, s.supervised) for s in row.segments] == [("text", "all of it", True)]
    with pytest.raises(ValueError, match="neither audio nor a turn of the assistant"):
        Interleaving()(Utterance("t", None))


def test_a_row_of_text_is_called_what_it_is_told():
    row = text_row("t1", "blue", "en", source="a.txt:1", attributes={"topic": "colours"})
    assert (row.id, row.language, row.source, row.audio) == ("t1", "en", "a.txt:1", None)
    assert row.attributes == {"topic": "colours"}
    assert row_of(row).answer == "blue"
