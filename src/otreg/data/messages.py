"""Conversations in a manifest: Hugging Face chat messages, checked and brought into one form.

    [{"role": "system", "content": "Answer in one word."},
     {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "Who speaks?"}]},
     {"role": "assistant", "content": "Ada"}]

A bare {"type": "audio"} is the row's own audio, with the row's text, start_s and end_s. A further
clip names its file: {"type": "audio", "audio": "b.flac", "text": "…", "start_s": 0, "end_s": 2.5},
where all but type and audio may be left out.

In the one form, messages are a tuple of {"role": …, "content": …}; content is a tuple of parts, and
a further clip's file is an absolute `Path`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from otreg.data.audio_bytes import AudioBytes
from otreg.data.checks import (
    check_audio_path,
    check_keys,
    check_list,
    check_object,
    check_span,
    check_string,
)
from otreg.data.utterance import ManifestError, Utterance
from otreg.names import nearest

ROLES = ("system", "user", "assistant")
MESSAGE_KEYS = ("role", "content")
PART_KEYS = {"text": ("type", "text"), "audio": ("type", "audio", "text", "start_s", "end_s")}

_EXAMPLE = '[{"role": "user", "content": [{"type": "audio"}]}]'


def message_parts(messages: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield the parts of normalised messages, in order."""
    for message in messages:
        yield from message["content"]


def is_own_audio(part: Mapping[str, Any]) -> bool:
    """Tell whether a part stands for the row's own audio."""
    return part["type"] == "audio" and "audio" not in part


def audio_files(row: Utterance) -> list[Path]:
    """The audio file of a row, and those of further clips in its messages; bytes are no file."""
    further = (part.get("audio") for part in message_parts(row.messages or ()))
    found = (row.audio, *further)
    return [Path(file) for file in found if file is not None and not isinstance(file, AudioBytes)]


def text_row(
    identity: str,
    text: str,
    language: str,
    *,
    source: str | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> Utterance:
    """A row without speech: one turn of the assistant that is the text, as in plain text training."""
    content = ({"type": "text", "text": text},)
    return Utterance(
        identity,
        None,
        language=language,
        messages=({"role": "assistant", "content": content},),
        attributes=attributes,
        source=source,
    )


def check_messages(value: Any, where: str, root: Path) -> tuple[dict[str, Any], ...]:
    """Bring messages as JSON gives them into the one form.

    Args:
        value: what stands under "messages".
        where: the line, for errors.
        root: folder that relative audio paths start from and that no path may leave.

    Returns:
        The messages, see above.

    Raises:
        ManifestError: naming line and place, for anything else.

    """
    messages = []
    for number, item in enumerate(check_list(value, "'messages'", where, _EXAMPLE)):
        place = f"messages[{number}]"
        message = check_object(item, place, where, '{"role": "user", "content": "…"}')
        check_keys(message, MESSAGE_KEYS, where, place)
        for key in MESSAGE_KEYS:
            if key not in message:
                raise ManifestError(f"{where}: {place} has no {key!r}; every message needs it")
        role = check_string(message["role"], f"{place}.role", where)
        if role not in ROLES:
            raise ManifestError(f"{where}: {place}.role is {role!r}; {nearest(role, ROLES)}")
        if role == "system" and number:
            raise ManifestError(
                f"{where}: {place} is a system turn after others; expected it first, or none"
            )
        content = _check_content(message["content"], f"{place}.content", where, root)
        messages.append({"role": role, "content": content})
    return tuple(messages)


def messages_record(messages: Sequence[Mapping[str, Any]], relative: Any) -> list[dict[str, Any]]:
    """Write messages as JSON values; `relative(path)` gives an audio path as it is to be written."""
    record = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, (list, tuple)):
            content = [_part_record(part, relative) for part in content]
        record.append({**message, "content": content})
    return record


def _part_record(part: Any, relative: Any) -> Any:
    if isinstance(part, Mapping) and isinstance(part.get("audio"), (str, Path)):
        return {**part, "audio": relative(part["audio"])}
    return dict(part) if isinstance(part, Mapping) else part


def _check_content(value: Any, place: str, where: str, root: Path) -> tuple[dict[str, Any], ...]:
    if isinstance(value, str):
        return ({"type": "text", "text": check_string(value, place, where)},)
    items = check_list(value, place, where, '"…" or [{"type": "text", "text": "…"}]')
    parts = [
        _check_part(item, f"{place}[{number}]", where, root) for number, item in enumerate(items)
    ]
    if all(part["type"] == "text" and not part["text"].strip() for part in parts):
        raise ManifestError(f"{where}: {place} is empty; expected text or audio")
    return tuple(parts)


def _check_part(value: Any, place: str, where: str, root: Path) -> dict[str, Any]:
    part = check_object(value, place, where, '{"type": "text", "text": "…"} or {"type": "audio"}')
    if "type" not in part:
        raise ManifestError(f"{where}: {place} has no 'type'; expected 'text' or 'audio'")
    kind = check_string(part["type"], f"{place}.type", where)
    if kind not in PART_KEYS:
        raise ManifestError(f"{where}: {place}.type is {kind!r}; {nearest(kind, PART_KEYS)}")
    check_keys(part, PART_KEYS[kind], where, place)
    if kind == "text":
        if "text" not in part:
            raise ManifestError(f"{where}: {place} has no 'text'; a text part needs it")
        return {
            "type": kind,
            "text": check_string(part["text"], f"{place}.text", where, blank=True),
        }
    if part.get("audio") is None:
        rest = sorted(key for key in part if key != "type" and part[key] is not None)
        if rest:
            raise ManifestError(
                f"{where}: {place} gives {rest[0]!r} without 'audio'; a bare "
                '{"type": "audio"} takes the row\'s own audio, text, start_s and end_s'
            )
        return {"type": kind}
    clip: dict[str, Any] = {
        "type": kind,
        "audio": check_audio_path(part["audio"], f"{place}.audio", where, root),
    }
    if part.get("text") is not None:
        clip["text"] = check_string(part["text"], f"{place}.text", where)
    start_s, end_s = check_span(part, where, place)
    clip |= {} if start_s is None else {"start_s": start_s}
    clip |= {} if end_s is None else {"end_s": end_s}
    return clip
