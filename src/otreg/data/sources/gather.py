"""What all kinds of data have in common: rows become checked utterances, or an error names one."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from otreg.data.records import check_record
from otreg.data.utterance import ManifestError, Utterance

logger = logging.getLogger(__name__)

Record = dict[str, Any]
"""A row as a manifest writes it; 'audio' may also be an `AudioBytes`."""


def gather(
    records: Iterable[tuple[str, Record]], *, root: Path, name: str, drop_empty: bool = False
) -> list[Utterance]:
    """Check all rows, as `read_manifest` does.

    Args:
        records: of each row where it stands, for errors, and what it says.
        root: folder that relative audio paths start from and that no path may leave.
        name: of the data, for errors.
        drop_empty: leave rows without transcript or audio out, and log how many.

    Raises:
        ManifestError: naming the row that cannot be used, or an id used twice, or for no row at all.

    """
    utterances: list[Utterance] = []
    place_of: dict[str, str] = {}
    for where, utterance in usable_rows(records, root=root, name=name, drop_empty=drop_empty):
        if utterance.id in place_of:
            raise ManifestError(
                f"{where}: id {utterance.id!r} is already used by {place_of[utterance.id]}; give "
                "every utterance an id of its own"
            )
        place_of[utterance.id] = where
        utterances.append(utterance)
    if not utterances:
        raise ManifestError(f"{name}: it holds no row that can be used; expected at least one")
    return utterances


def usable_rows(
    records: Iterable[tuple[str, Record]], *, root: Path, name: str, drop_empty: bool
) -> Iterator[tuple[str, Utterance]]:
    """Check rows one after the other; arguments as for `gather`.

    Yields:
        Where each row stands, and its utterance.

    Raises:
        ManifestError: naming the row, for one that cannot be used.

    """
    num_rows = num_dropped = 0
    for where, record in records:
        num_rows += 1
        empty = next((key for key in ("audio", "text") if _is_empty(record.get(key))), None)
        if empty is None:
            yield where, check_record(record, where, root)
        elif drop_empty:
            num_dropped += 1
        else:
            found = "is missing" if record.get(empty) is None else f"is {record[empty]!r}"
            raise ManifestError(
                f"{where}: its {empty} {found}; complete the row, or leave such rows out with "
                "drop_empty: true"
            )
    if num_dropped:
        logger.warning(
            "%s: left out %d of %d rows, which lack text or audio", name, num_dropped, num_rows
        )


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def table_lines(path: Path, num_fields: int | None = None) -> Iterator[tuple[str, list[str]]]:
    """The lines of a text file of keys and values, parted at white space.

    Args:
        path: UTF-8.
        num_fields: parts of a line; None = two, of which the second goes to the line's end.

    Returns:
        Where each line stands, and its parts.

    Raises:
        ManifestError: the file cannot be read, a line has other parts, or a key stands twice.

    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read: {error}; expected UTF-8 text") from error
    seen: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        where = f"{path}:{number}"
        parts = line.split() if num_fields else line.strip().split(maxsplit=1)
        if not parts:
            continue
        if num_fields and len(parts) != num_fields:
            raise ManifestError(f"{where}: expected {num_fields} fields, received {line!r}")
        if parts[0] in seen:
            raise ManifestError(
                f"{where}: {parts[0]!r} already stands in {seen[parts[0]]}; keep one of them"
            )
        seen[parts[0]] = where
        yield where, parts if num_fields else [*parts, ""][:2]


def import_extra(module: str, extra: str, what: str) -> Any:
    """Import a package that an extra brings.

    Raises:
        ImportError: it is missing, with the command that brings it.

    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{what} needs the package {module}: pip install 'otreg[{extra}]' ({error})"
        ) from error
