"""The optional parts of a manifest's row: words, messages, attributes and custom."""

import json
from dataclasses import replace

import numpy as np
import pytest

from otreg.data import ManifestError, Utterance, Word, read_manifest, write_manifest

OWN = {"type": "audio"}
BACK = {"role": "assistant", "content": "yes"}


def asked(*parts):
    return [{"role": "user", "content": list(parts)}, BACK]


def text(content):
    return {"type": "text", "text": content}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "corpus" / "more").mkdir(parents=True)
    for name in ("a.wav", "b.wav", "more/c.wav", "../outside.wav"):
        (tmp_path / "corpus" / name).write_bytes(b"a")
    return tmp_path / "corpus"


def read(folder, **changes):
    record = {"id": "u1", "audio": "a.wav", "text": "one two", "language": "en", **changes}
    kept = {key: value for key, value in record.items() if value != "ABSENT"}
    path = folder / "m.jsonl"
    path.write_text(json.dumps(kept) + "\n", encoding="utf-8")
    return read_manifest(path)[0]


WORDS = [
    {"word": "one", "start_s": 0.25, "end_s": 0.5},
    {"word": "two", "start_s": 0.5, "end_s": 1},
]


def test_words_are_read_in_order(folder):
    assert read(folder, words=WORDS).words == (Word("one", 0.25, 0.5), Word("two", 0.5, 1.0))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, "'words' must be a list such as .*, received an object"),
        ([], "'words' is an empty list"),
        (["one"], r"words\[0\] must be an object such as .*received a string: 'one'"),
        ([WORDS[0], {"word": "x", "start_s": 0.6}], r"words\[1\] needs .*received word, start_s"),
        ([{**WORDS[0], "end_s": None}], r"words\[0\] needs 'word', 'start_s' and 'end_s'"),
        ([{**WORDS[0], "word": None}], r"words\[0\] needs 'word', 'start_s' and 'end_s'"),
        ([{**WORDS[0], "word": " "}], r"words\[0\]\.word is empty"),
        ([{**WORDS[0], "word": 3}], r"words\[0\]\.word must be a string, received a number: 3"),
        ([{**WORDS[0], "start": 0}], r"unknown key 'start' in words\[0\]; did you mean 'start_s'"),
        ([{**WORDS[0], "start_s": -1}], r"'words\[0\]\.start_s' must be finite and not negative"),
        ([{**WORDS[0], "end_s": 0.25}], r"words\[0\]\.end_s 0\.25 does not come after start_s"),
        (WORDS[::-1], r"words\[1\] 'one' \(0\.25 to 0\.5 s\) comes before the word in front"),
        (
            [WORDS[1], {"word": "x", "start_s": 0.4, "end_s": 1.2}],
            r"words\[1\] 'x' \(0\.4 to 1\.2 s\) comes before the word in front of it \(0\.5 to",
        ),
        (
            [{**WORDS[0], "end_s": 2}, {**WORDS[1], "end_s": 1.9}],
            r"words\[1\] 'two' \(0\.5 to 1\.9 s\) comes before",
        ),
    ],
)
def test_bad_words_are_refused_by_place(folder, words, message):
    with pytest.raises(ManifestError, match=message) as caught:
        read(folder, words=words)
    assert str(caught.value).startswith(f"{folder / 'm.jsonl'}:1: ")


def test_words_stay_inside_the_utterance_where_its_end_is_known(folder):
    late = [{"word": "one", "start_s": 0.5, "end_s": 1.0}]
    for span in ({}, {"start_s": 3.0}, {"end_s": 1.0}, {"start_s": 2.0, "end_s": 2.992}):
        assert read(folder, words=late, **span).words == (Word("one", 0.5, 1.0),)
    for span in ({"end_s": 0.9}, {"start_s": 2.0, "end_s": 2.9}):
        with pytest.raises(ManifestError, match=r"'one' ends at 1\.0 s, after .* lasts 0\.900 s"):
            read(folder, words=late, **span)


def test_messages_come_in_one_form(folder):
    made = read(
        folder,
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [text("first "), OWN, text(" ")]},
            {"role": "assistant", "content": "yes"},
            {"role": "user", "content": [{"type": "audio", "audio": "more/../b.wav"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "audio", "audio": "more/c.wav", "text": "c", "start_s": 0, "end_s": 2}
                ],
            },
        ],
    ).messages
    assert made == (
        {"role": "system", "content": (text("Be brief."),)},
        {"role": "user", "content": (text("first "), OWN, text(" "))},
        {"role": "assistant", "content": (text("yes"),)},
        {"role": "user", "content": ({"type": "audio", "audio": folder / "b.wav"},)},
        {
            "role": "assistant",
            "content": (
                {
                    "type": "audio",
                    "audio": folder / "more" / "c.wav",
                    "text": "c",
                    "start_s": 0.0,
                    "end_s": 2.0,
                },
            ),
        },
    )


def test_null_in_a_part_is_as_good_as_absent(folder):
    part = {"type": "audio", "audio": None, "text": None, "start_s": None, "end_s": None}
    assert read(folder, messages=asked(part)).messages[0]["content"] == (OWN,)
    part["audio"] = "b.wav"
    clip = {"type": "audio", "audio": folder / "b.wav"}
    assert read(folder, audio=None, text=None, messages=asked(part)).messages[0]["content"] == (
        clip,
    )


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("hello", "'messages' must be a list such as .* received a string"),
        ([], "'messages' is an empty list"),
        (["hello"], r"messages\[0\] must be an object such as"),
        ([{"role": "user"}], r"messages\[0\] has no 'content'"),
        ([{"content": "x"}], r"messages\[0\] has no 'role'"),
        (
            [{"role": "user", "content": "x", "contents": "y"}],
            r"unknown key 'contents' in messages\[0\]; did you mean 'content'",
        ),
        (
            [{"role": "asistant", "content": "x"}],
            r"messages\[0\]\.role is 'asistant'; did you mean 'assistant'",
        ),
        ([{"role": "tool", "content": "x"}], "known: assistant, system, user"),
        ([{"role": 3, "content": "x"}], r"messages\[0\]\.role must be a string"),
        (
            [BACK, {"role": "system", "content": "x"}],
            r"messages\[1\] is a system turn after others",
        ),
        ([{"role": "user", "content": ""}], r"messages\[0\]\.content is empty"),
        ([{"role": "user", "content": " "}], r"messages\[0\]\.content is empty"),
        ([{"role": "user", "content": []}], r"messages\[0\]\.content is an empty list"),
        ([{"role": "user", "content": None}], "content must be a list such as .*a null"),
        (asked(text(" "), text("\n")), r"messages\[0\]\.content is empty"),
        (asked(text("")), r"messages\[0\]\.content\[0\]\.text is empty"),
        (asked("x"), r"messages\[0\]\.content\[0\] must be an object"),
        (asked({"text": "x"}), r"content\[0\] has no 'type'; expected 'text' or 'audio'"),
        (asked({"type": "text"}), r"content\[0\] has no 'text'"),
        (asked({"type": "image"}), r"content\[0\]\.type is 'image'; known: audio, text"),
        (asked({"type": "Audio"}), "did you mean 'audio'"),
        (
            asked(OWN, {"type": "audio", "audio_url": "x"}),
            r"unknown key 'audio_url' in messages\[0\]\.content\[1\]; did you mean 'audio'",
        ),
        (asked({**text("x"), "audio": "b.wav"}), r"unknown key 'audio' in .*content\[0\]"),
        (asked({"type": "audio", "text": "x"}), "gives 'text' without 'audio'; a bare"),
        (asked({"type": "audio", "end_s": 1}), "gives 'end_s' without 'audio'"),
        (asked({"type": "audio", "audio": "../outside.wav"}), r"audio '../outside.wav' leads out"),
        (asked({"type": "audio", "audio": "x.wav"}), r"no audio file 'x\.wav' in "),
        (asked({"type": "audio", "audio": 3}), r"content\[0\]\.audio must be a string"),
        (asked({"type": "audio", "audio": "b.wav", "text": ""}), r"content\[0\]\.text is empty"),
        (
            asked({"type": "audio", "audio": "b.wav", "start_s": 2, "end_s": 1}),
            r"content\[0\]\.end_s 1\.0 does not come after start_s 2\.0",
        ),
        (asked(text("\ud800")), "half of a surrogate pair"),
    ],
)
def test_bad_messages_are_refused_by_place(folder, messages, message):
    with pytest.raises(ManifestError, match=message) as caught:
        read(folder, messages=messages)
    assert str(caught.value).startswith(f"{folder / 'm.jsonl'}:1: ")


def test_audio_and_text_are_needed_where_the_row_s_own_audio_is_meant(folder):
    for key in ("audio", "text"):
        with pytest.raises(ManifestError, match=f"the key '{key}' is missing; every line needs"):
            read(folder, **{key: "ABSENT"})
        with pytest.raises(ManifestError, match=f"the key '{key}' is missing; the bare part"):
            read(folder, messages=asked(OWN), **{key: "ABSENT"})
        with pytest.raises(ManifestError, match=f"'{key}' must be a string, received a null"):
            read(folder, messages=asked(OWN), **{key: None})


@pytest.mark.parametrize("part", [text("hello"), {"type": "audio", "audio": "b.wav"}])
def test_audio_and_text_may_be_absent_elsewhere(folder, part):
    for absent in ("ABSENT", None):
        row = read(folder, audio=absent, text=absent, messages=asked(part))
        assert (row.audio, row.text) == (None, "")
    assert read(folder, audio="ABSENT", messages=asked(part)).text == "one two"


def test_audio_that_no_message_uses_is_refused(folder):
    with pytest.raises(ManifestError, match="'audio' is given, but no part of its messages uses"):
        read(folder, messages=asked(text("hello")))


@pytest.mark.parametrize("key", ["start_s", "end_s", "words"])
def test_what_speaks_of_the_audio_needs_audio(folder, key):
    value = WORDS if key == "words" else 1.5
    with pytest.raises(ManifestError, match=f"'{key}' needs 'audio'"):
        read(folder, audio=None, text=None, messages=asked(text("x")), **{key: value})


def test_messages_need_no_assistant(folder):
    assert len(read(folder, messages=asked(OWN)[:1]).messages) == 1


def test_attributes_are_scalars(folder):
    given = {"emotion": "calm", "pitch_hz": 181.5, "age": 30, "native": True, "accent": None}
    assert read(folder, attributes=given).attributes == given
    assert read(folder, attributes={}).attributes == {}
    for value, message in [
        ([1], "'attributes' must be an object such as .* received a list"),
        ("calm", "'attributes' must be an object"),
        ({"a": [1]}, r"'attributes' holds a list: \[1\] under 'a'; expected a string"),
        ({"a": {}}, "holds an object: {} under 'a'"),
        ({"": 1}, "a key in 'attributes' is empty"),
        ({"a": "\udfff"}, "'attributes' holds half of a surrogate pair"),
    ]:
        with pytest.raises(ManifestError, match=message):
            read(folder, attributes=value)


def test_custom_is_any_json(folder):
    given = {"a": [1, {"b": None, "audio": "../x"}, []], "unknown": {"c": "\u2028"}, "n": 10**30}
    assert read(folder, custom=given).custom == given
    deep = []
    for _ in range(200):
        deep = [deep]
    for value, message in [
        ([1], "'custom' must be an object such as"),
        ({"a": [{"b": "\ud83d"}]}, "'custom' holds half of a surrogate pair"),
        ({"\ud83d": 1}, "a key in 'custom' holds half of a surrogate pair"),
        ({"a": deep}, "'custom' is nested more than 100 levels deep"),
    ]:
        with pytest.raises(ManifestError, match=message):
            read(folder, custom=value)


def test_a_number_too_large_for_floats_is_refused_everywhere(folder):
    path = folder / "m.jsonl"
    for key in ("custom", "attributes"):
        record = {"id": "u", "audio": "a.wav", "text": "x", "language": "en", key: {"a": 7}}
        path.write_text(json.dumps(record).replace("7}", "1e999}"))
        with pytest.raises(ManifestError, match=f"'{key}' holds inf; expected finite numbers"):
            read_manifest(path)


@pytest.mark.parametrize(
    "value", [(1, 2), {3}, np.float64(1.5), np.int64(1), b"x", {1: 2}, float("nan")]
)
def test_what_json_does_not_read_back_is_not_written(folder, value):
    row = Utterance("u1", folder / "a.wav", "x", "en", custom={"a": value})
    with pytest.raises(ManifestError, match="'custom'"):
        write_manifest(folder / "out.jsonl", [row])
    assert not (folder / "out.jsonl").exists()


def test_a_whole_number_beyond_python_s_limit_is_not_written(folder):
    row = Utterance("u1", folder / "a.wav", "x", "en", custom={"a": 10**5000})
    with pytest.raises(ManifestError, match="cannot be written as JSON: Exceeds the limit"):
        write_manifest(folder / "out.jsonl", [row])


def test_unknown_keys_are_refused_outside_custom(folder):
    with pytest.raises(ManifestError, match="unknown key 'message'; did you mean 'messages'"):
        read(folder, message=[])
    with pytest.raises(ManifestError, match="unknown key 'attribute'; did you mean 'attributes'"):
        read(folder, attribute={})


def test_a_row_is_hashable_and_equal_rows_share_their_hash(folder):
    row = read(folder, words=WORDS, messages=asked(OWN), attributes={"a": 1}, custom={"b": [1, {}]})
    same = replace(row, custom={"b": [1, {}]}, source=None)
    assert row == same
    assert hash(row) == hash(same)
    assert row != replace(row, custom={"b": []})
    assert len({row, same}) == 1
