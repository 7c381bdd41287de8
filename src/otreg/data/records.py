"""One line of a manifest: from a JSON object to an `Utterance` and back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from otreg.data.audio_bytes import AudioBytes
from otreg.data.checks import (
    check_audio_path,
    check_json,
    check_keys,
    check_list,
    check_object,
    check_scalars,
    check_span,
    check_string,
)
from otreg.data.messages import check_messages, is_own_audio, message_parts, messages_record
from otreg.data.utterance import ManifestError, Utterance, Word

REQUIRED_KEYS = ("id", "audio", "text", "language")
OPTIONAL_KEYS = ("speaker", "start_s", "end_s", "words", "messages", "attributes", "custom")
KEYS = REQUIRED_KEYS + OPTIONAL_KEYS
WORD_KEYS = ("word", "start_s", "end_s")

_END_TOLERANCE_S = 0.01  # words may pass the utterance's end by this much: times are rounded


def check_record(record: dict[str, Any], where: str, root: Path) -> Utterance:
    """Turn one JSON object into an Utterance, or say what is wrong with it.

    Args:
        record: the object; 'audio' may be an `AudioBytes`, which JSON cannot make.
        where: "manifest.jsonl:12", for errors.
        root: folder that relative audio paths start from and that no path may leave.

    Raises:
        ManifestError: naming line and key.

    """
    check_keys(record, KEYS, where)
    for key in ("id", "language"):
        if key not in record:
            raise ManifestError(f"{where}: the key {key!r} is missing; every line needs it")
        check_string(record[key], f"{key!r}", where)
    if not record["id"].isprintable():
        raise ManifestError(
            f"{where}: 'id' {record['id']!a} holds a character that cannot be printed"
        )
    given = {key: value for key, value in record.items() if value is not None}
    messages = given.get("messages")
    if messages is not None:
        messages = check_messages(messages, where, root)
    _check_own_audio(record, messages, where)
    audio = text = speaker = words = attributes = custom = None
    if "audio" in given:
        audio = given["audio"]
        if not isinstance(audio, AudioBytes):
            audio = check_audio_path(audio, "'audio'", where, root)
    if "text" in given:
        text = check_string(given["text"], "'text'", where)
    if "speaker" in given:
        speaker = check_string(given["speaker"], "'speaker'", where)
    start_s, end_s = check_span(record, where)
    if "words" in given:
        duration_s = None if end_s is None else end_s - (start_s or 0.0)
        words = _check_words(given["words"], duration_s, where)
    if "attributes" in given:
        attributes = check_scalars(given["attributes"], "'attributes'", where)
    if "custom" in given:
        check_object(given["custom"], "'custom'", where, '{"session": 3}')
        custom = check_json(given["custom"], "'custom'", where)
    return Utterance(
        id=record["id"],
        audio=audio,
        text=text or "",
        language=record["language"],
        speaker=speaker,
        start_s=start_s,
        end_s=end_s,
        words=words,
        messages=messages,
        attributes=attributes,
        custom=custom,
        source=where,
    )


def utterance_record(utterance: Utterance, root: Path) -> dict[str, Any]:
    """Turn an Utterance into the JSON object that `check_record` turns back into it.

    Args:
        utterance: what to write; unchecked, so pass the result through `check_record`.
        root: absolute folder from which the audio paths are to start.

    Raises:
        ManifestError: the audio is no file, so no path can name it.

    """
    if isinstance(utterance.audio, AudioBytes):
        raise ManifestError(
            f"{utterance.name}: its audio {utterance.audio} is no file of its own, so a manifest cannot "
            "name it; otreg.data.sources.export_manifest writes the audio beside the manifest"
        )

    def relative(audio: str | Path) -> str:
        absolute = Path(audio).parent.resolve() / Path(audio).name
        return Path(os.path.relpath(absolute, root)).as_posix()

    record: dict[str, Any] = {"id": utterance.id}
    if utterance.audio is not None:
        record["audio"] = relative(utterance.audio)
    if utterance.text or utterance.messages is None:
        record["text"] = utterance.text
    record["language"] = utterance.language
    for key in ("speaker", "start_s", "end_s", "attributes", "custom"):
        value = getattr(utterance, key)
        if value is not None:
            record[key] = value
    if utterance.words is not None:
        record["words"] = [
            {key: getattr(word, key) for key in WORD_KEYS} for word in utterance.words
        ]
    if utterance.messages is not None:
        record["messages"] = messages_record(utterance.messages, relative)
    return record


def _check_own_audio(
    record: dict[str, Any], messages: tuple[dict[str, Any], ...] | None, where: str
) -> None:
    """See that audio and text are there where the row needs them, and audio only there."""
    if messages is None or any(is_own_audio(part) for part in message_parts(messages)):
        for key in ("audio", "text"):
            if key not in record:
                reason = (
                    "every line needs it, but for conversations without the row's own audio"
                    if messages is None
                    else 'the bare part {"type": "audio"} in its messages stands for it (a clip '
                    'that is written out, {"type": "audio", "audio": "…"}, needs no text)'
                )
                raise ManifestError(f"{where}: the key {key!r} is missing; {reason}")
            if not isinstance(record[key], AudioBytes):
                check_string(record[key], f"{key!r}", where)
    elif record.get("audio") is not None:
        raise ManifestError(
            f"{where}: 'audio' is given, but no part of its messages uses it; put "
            '{"type": "audio"} where it belongs in them, or leave audio out'
        )
    if record.get("audio") is None:
        for key in ("start_s", "end_s", "words"):
            if record.get(key) is not None:
                raise ManifestError(
                    f"{where}: {key!r} needs 'audio', which this line does not have"
                )


def _check_words(value: Any, duration_s: float | None, where: str) -> tuple[Word, ...]:
    """Return the words; their times never go back, and stay inside the utterance."""
    words: list[Word] = []
    example = '[{"word": "hello", "start_s": 0.1, "end_s": 0.4}]'
    for number, item in enumerate(check_list(value, "'words'", where, example)):
        place = f"words[{number}]"
        record = check_object(item, place, where, example[1:-1])
        check_keys(record, WORD_KEYS, where, place)
        start_s, end_s = check_span(record, where, place)
        if start_s is None or end_s is None or record.get("word") is None:
            raise ManifestError(
                f"{where}: {place} needs 'word', 'start_s' and 'end_s', received "
                f"{', '.join(record) or 'nothing'}"
            )
        word = check_string(record["word"], f"{place}.word", where)
        if words and (start_s < words[-1].start_s or end_s < words[-1].end_s):
            raise ManifestError(
                f"{where}: {place} {word!r} ({start_s} to {end_s} s) comes before the word in "
                f"front of it ({words[-1].start_s} to {words[-1].end_s} s); sort words by time"
            )
        if duration_s is not None and end_s > duration_s + _END_TOLERANCE_S:
            raise ManifestError(
                f"{where}: {place} {word!r} ends at {end_s} s, after the utterance, which lasts "
                f"{duration_s:.3f} s; word times count from the utterance's start_s on"
            )
        words.append(Word(word, start_s, end_s))
    return tuple(words)
