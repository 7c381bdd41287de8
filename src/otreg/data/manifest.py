"""JSONL manifests: one utterance a line, read strictly, with errors that name the line.

    {"id": "u1", "audio": "wav/u1.flac", "text": "hello", "language": "en", "speaker": "s1"}

`docs/data.md` describes every key.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from otreg.data.checks import describe
from otreg.data.records import REQUIRED_KEYS, check_record, utterance_record
from otreg.data.utterance import ManifestError, Utterance, Word

__all__ = [
    "ManifestError",
    "Utterance",
    "Word",
    "check_unique_ids",
    "read_manifest",
    "read_manifests",
    "write_manifest",
]


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
    if not folder.is_dir():
        raise ManifestError(
            f"{path}: the root {str(root)!r} is no folder; name one above the audio"
        )
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


def write_manifest(
    path: str | Path, utterances: Iterable[Utterance], *, root: str | Path | None = None
) -> None:
    """Write a manifest that `read_manifest` reads back equal; replaces the file in one step.

    Audio paths are written relative to the manifest's folder, or to the root.

    Args:
        path: the manifest to write; its folder is made where it is missing.
        utterances: what to write. Relative audio paths are taken from the working directory.
        root: as in `read_manifest`, which then needs the same root to read the manifest back.

    Raises:
        ManifestError: for an utterance that `read_manifest` would refuse, an audio file outside
            the manifest's folder (or the root) among them. Nothing is written then.

    """
    path = Path(path)
    folder = (path.parent if root is None else Path(root)).resolve()
    lines = []
    checked = []
    for number, utterance in enumerate(utterances, start=1):
        where = f"{path}:{number}"
        record = utterance_record(utterance, folder)
        checked.append(check_record(record, where, folder))
        try:
            lines.append(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
        except ValueError as error:  # a whole number of more digits than Python reads
            raise ManifestError(f"{where}: cannot be written as JSON: {error}") from error
    check_unique_ids(checked)
    if not lines:
        raise ManifestError(f"{path}: no utterance to write; a manifest holds at least one")
    path.parent.mkdir(parents=True, exist_ok=True)
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
            raise ManifestError(f"{where}: the key {twice!r} stands twice in one object")
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
            f'{where}: expected a JSON object such as {{"id": …}}, received {describe(record)}'
        )
    return check_record(record, where, folder)
