"""JSONL manifests: one utterance a line, read strictly, with errors that name the line.

    {"id": "u1", "audio": "wav/u1.flac", "text": "hello", "language": "en", "speaker": "s1"}

`docs/data.md` describes every key.
"""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REQUIRED_KEYS = ("id", "audio", "text", "language")
OPTIONAL_KEYS = ("speaker", "start_s", "end_s")
KEYS = REQUIRED_KEYS + OPTIONAL_KEYS


class ManifestError(ValueError):
    """A manifest, or one line of it, that cannot be used; the message names file and line."""


@dataclass(frozen=True)
class Utterance:
    """One piece of speech and its transcript.

    Args:
        id: name of the utterance, unique among all that are used together.
        audio: audio file. `read_manifest` makes it absolute.
        text: transcript; "" where it is unknown (to transcribe), which a manifest cannot hold.
        language: language code such as "en", "zh" or "pt-BR"; "" where it is unknown.
        speaker: name of the speaker, or None.
        start_s: where the utterance starts in the file, in seconds; None = at the file's start.
        end_s: where it ends, in seconds; None = at the file's end.
        source: "manifest.jsonl:12", the line it was read from, quoted by errors; not compared.

    """

    id: str
    audio: Path
    text: str = ""
    language: str = ""
    speaker: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    source: str | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """How errors call this utterance: its manifest line where it has one, and its id."""
        return f"{self.source}: utterance {self.id!r}" if self.source else f"utterance {self.id!r}"


def read_manifest(path: str | Path, *, root: str | Path | None = None) -> list[Utterance]:
    """Read every line of a JSONL manifest, or refuse it whole.

    Blank lines and a byte-order mark carry no data and are passed over; everything else that is not
    a valid utterance is an error.

    Args:
        path: the manifest, UTF-8, one JSON object a line.
        root: folder that relative audio paths start from and that no audio path may leave, through
            "..", an absolute path or a symbolic link; None = the manifest's own folder.

    Returns:
        The utterances in the order of their lines.

    Raises:
        ManifestError: naming file and line, for anything but a valid, complete manifest.

    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path}: cannot read the manifest: {error.strerror}") from error
    folder = (path.parent if root is None else Path(root)).resolve()
    utterances: list[Utterance] = []
    first_line_of: dict[str, int] = {}
    for number, line in _lines(content):
        where = f"{path}:{number}"
        utterance = _parse_line(line, where, folder)
        if utterance.id in first_line_of:
            raise ManifestError(
                f"{where}: id {utterance.id!r} is already used on line "
                f"{first_line_of[utterance.id]}; give every utterance an id of its own"
            )
        first_line_of[utterance.id] = number
        utterances.append(utterance)
    if not utterances:
        raise ManifestError(
            f"{path}: the manifest is empty; expected one JSON object a line with the keys "
            f"{', '.join(REQUIRED_KEYS)}"
        )
    return utterances


def read_manifests(
    paths: Iterable[str | Path] | str | Path, *, root: str | Path | None = None
) -> list[Utterance]:
    """Read several manifests as one list; ids must be unique across all of them.

    Args:
        paths: manifests, or a single one.
        root: as in `read_manifest`, the same for all.

    Returns:
        The utterances of the first manifest, then of the second, and so on.

    Raises:
        ManifestError: as `read_manifest`, and for an id that two manifests share.

    """
    if isinstance(paths, (str, Path)):
        paths = [paths]
    utterances = [utterance for path in paths for utterance in read_manifest(path, root=root)]
    if not utterances:
        raise ManifestError("no manifest was given; expected at least one path")
    check_unique_ids(utterances)
    return utterances


def check_unique_ids(utterances: Iterable[Utterance]) -> None:
    """Raise a ManifestError when two utterances share an id."""
    seen: dict[str, Utterance] = {}
    for utterance in utterances:
        if utterance.id in seen:
            raise ManifestError(
                f"{utterance.name}: the id is already used by {seen[utterance.id].name}; "
                "ids must be unique across all manifests that are used together"
            )
        seen[utterance.id] = utterance


def write_manifest(path: str | Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest that `read_manifest` reads back equal; replaces the file in one step.

    Audio paths are written relative to the manifest's folder.

    Args:
        path: the manifest to write; its folder is made where it is missing.
        utterances: what to write. Relative audio paths are taken from the working directory.

    Raises:
        ManifestError: for an utterance that `read_manifest` would refuse, an audio file outside
            the manifest's folder among them. Nothing is written then.

    """
    path = Path(path)
    folder = path.parent.resolve()
    lines = []
    checked = []
    for number, utterance in enumerate(utterances, start=1):
        audio = utterance.audio.parent.resolve() / utterance.audio.name
        record: dict[str, Any] = {
            "id": utterance.id,
            "audio": Path(os.path.relpath(audio, folder)).as_posix(),
            "text": utterance.text,
            "language": utterance.language,
        }
        for key in OPTIONAL_KEYS:
            value = getattr(utterance, key)
            if value is not None:
                record[key] = value
        where = f"{path}:{number}"
        checked.append(_check_record(record, where, folder))
        lines.append(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
    check_unique_ids(checked)
    if not lines:
        raise ManifestError(f"{path}: no utterance to write; a manifest holds at least one")
    folder.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(path.name + ".tmp")
    staged.write_text("".join(lines), encoding="utf-8", newline="\n")
    os.replace(staged, path)


def _lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, bytes) of the lines that hold something.

    Only a line feed ends a line: JSON strings may hold U+2028 and its like.
    """
    content = content.removeprefix(b"\xef\xbb\xbf")
    for number, line in enumerate(content.split(b"\n"), start=1):
        stripped = line.strip(b" \t\r")
        if stripped:
            yield number, stripped


def _parse_line(line: bytes, where: str, folder: Path) -> Utterance:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"{where}: not UTF-8 (byte {line[error.start]:#04x} at column {error.start + 1}); "
            "save the manifest as UTF-8"
        ) from error

    def refuse_constant(name: str) -> Any:
        raise ManifestError(f"{where}: {name} is not a JSON number; expected finite numbers")

    def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ManifestError(f"{where}: the key {twice!r} stands twice on this line")
        return record

    try:
        record = json.loads(text, parse_constant=refuse_constant, object_pairs_hook=unique_keys)
    except ManifestError:
        raise
    except json.JSONDecodeError as error:
        raise ManifestError(
            f"{where}: not valid JSON at column {error.colno}: {error.msg}; "
            "expected one JSON object a line"
        ) from error
    except (ValueError, RecursionError) as error:  # a number or a nesting beyond Python's limits
        raise ManifestError(f"{where}: not usable JSON: {error}") from error
    if not isinstance(record, dict):
        raise ManifestError(
            f'{where}: expected a JSON object such as {{"id": …}}, received a {_json_type(record)}'
        )
    return _check_record(record, where, folder)


def _check_record(record: dict[str, Any], where: str, folder: Path) -> Utterance:
    """Turn one JSON object into an Utterance, or say what is wrong with it."""
    for key in record:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ManifestError(f"{where}: unknown key {key!r}; {hint}known: {', '.join(KEYS)}")
    for key in REQUIRED_KEYS:
        if key not in record:
            raise ManifestError(f"{where}: the key {key!r} is missing; every line needs it")
        _check_string(record[key], key, where)
    if record.get("speaker") is not None:
        _check_string(record["speaker"], "speaker", where)
    start_s = _check_seconds(record.get("start_s"), "start_s", where)
    end_s = _check_seconds(record.get("end_s"), "end_s", where)
    if end_s is not None and end_s <= (start_s or 0.0):
        raise ManifestError(
            f"{where}: end_s {end_s} does not come after start_s {start_s or 0.0}; "
            "expected 0 <= start_s < end_s, in seconds"
        )
    return Utterance(
        id=record["id"],
        audio=_check_audio_path(record["audio"], where, folder),
        text=record["text"],
        language=record["language"],
        speaker=record.get("speaker"),
        start_s=start_s,
        end_s=end_s,
        source=where,
    )


def _check_string(value: Any, key: str, where: str) -> None:
    if not isinstance(value, str):
        raise ManifestError(
            f"{where}: {key!r} must be a string, received a {_json_type(value)}: {value!r}"
        )
    if not value.strip():
        raise ManifestError(f"{where}: {key!r} is empty; expected text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ManifestError(
            f"{where}: {key!r} holds half of a surrogate pair ({value[error.start]!a}), which is "
            "no character; write the character itself"
        ) from error
    if key == "id" and not value.isprintable():
        raise ManifestError(f"{where}: 'id' {value!a} holds a character that cannot be printed")


def _check_seconds(value: Any, key: str, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ManifestError(
            f"{where}: {key!r} must be a number of seconds, received a {_json_type(value)}: "
            f"{value!r}"
        )
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds) or seconds < 0:
        raise ManifestError(
            f"{where}: {key!r} must be finite and not negative, received {seconds} seconds"
        )
    return seconds


def _check_audio_path(audio: str, where: str, folder: Path) -> Path:
    """Resolve links and "..", and refuse what leaves the folder or is no file."""
    try:
        resolved = (folder / audio).resolve()
        inside = resolved.is_relative_to(folder)
        is_file = inside and resolved.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null byte, a loop of links
        raise ManifestError(f"{where}: 'audio' {audio!a} is no usable path: {error}") from error
    if not inside:
        raise ManifestError(
            f"{where}: 'audio' {audio!r} leads out of {folder} (to {resolved}); keep the audio "
            "below the manifest's folder, or pass the folder that holds both as root"
        )
    if not is_file:
        raise ManifestError(
            f"{where}: no audio file {audio!r} in {folder}; paths are relative to the "
            "manifest's folder"
        )
    return resolved


def _json_type(value: Any) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
