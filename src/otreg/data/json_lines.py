"""Files of one JSON object a line, read strictly: manifests, and those of other programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from otreg.data.checks import describe
from otreg.data.utterance import ManifestError


def json_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read a file of JSON objects; blank lines and a byte-order mark are passed over.

    Args:
        path: UTF-8, one object a line.

    Returns:
        The number of each line, from 1, and its object; the file is read at once, the lines are
        parsed as they are asked for.

    Raises:
        ManifestError: naming file and line, for what cannot be read, is no JSON object, holds a key
            twice or a number that JSON does not have.

    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path}: cannot read the manifest: {error.strerror}") from error
    return ((number, _parse_line(line, f"{path}:{number}")) for number, line in _lines(content))


def _lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, bytes) of the lines that hold something.

    Only a line feed ends a line: JSON strings may hold U+2028 and its like.
    """
    content = content.removeprefix(b"\xef\xbb\xbf")
    for number, line in enumerate(content.split(b"\n"), start=1):
        stripped = line.strip(b" \t\r")
        if stripped:
            yield number, stripped


def _parse_line(line: bytes, where: str) -> dict[str, Any]:
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
    return record
