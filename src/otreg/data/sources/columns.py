"""Which column of a table is which field of an utterance."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from otreg.data.utterance import ManifestError
from otreg.names import nearest

FIELDS = ("id", "audio", "text", "language", "speaker", "start_s", "end_s")
COLUMN_MAPS = Path(__file__).parent / "column_maps"
"""The folder of the column maps that are shipped: of Common Voice, FLEURS and others."""

Columns = str | Mapping[str, str | None] | None


def check_columns(columns: Columns) -> dict[str, str | None]:
    """Read a column map: field -> column, None for a field that is left out.

    Args:
        columns: such a mapping, the name of a shipped one, or None for an empty one.

    Raises:
        ManifestError: an unknown name or field, or a column that is no name.

    """
    if isinstance(columns, str):
        import yaml

        path = COLUMN_MAPS / f"{columns}.yaml"
        names = sorted(file.stem for file in COLUMN_MAPS.glob("*.yaml"))
        if columns not in names:
            raise ManifestError(
                f"columns: no column map {columns!r}; {nearest(columns, names)} (or a mapping, such as "
                "{text: sentence})"
            )
        columns = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(columns, Mapping | None):
        raise ManifestError(
            f"columns: expected a mapping such as {{text: sentence}}, received {columns!r}"
        )
    for field, column in (columns or {}).items():
        if field not in FIELDS:
            raise ManifestError(f"columns: unknown field {field!r}; {nearest(str(field), FIELDS)}")
        if column is not None and not (isinstance(column, str) and column):
            raise ManifestError(f"columns: {field}: expected a column's name, received {column!r}")
    return dict(columns or {})


def find_columns(
    columns: Columns, known: Collection[str], name: str, *, language: str | None
) -> dict[str, str]:
    """The column of each field in a table that has these columns.

    A field that the map does not name is read from the column of its own name, where there is one.

    Args:
        columns: a column map, as `check_columns` takes it.
        known: the table's columns.
        name: of the table, for errors.
        language: of all rows; it takes the place of a column of languages.

    Raises:
        ManifestError: a column that the table does not have, no column of audio or text, or both a
            language and a column of languages.

    """
    given = check_columns(columns)
    if language is not None:
        if not isinstance(columns, str) and given.get("language") is not None:
            raise ManifestError(
                f"{name}: both language: {language} and a column of languages "
                f"({given['language']!r}) are given; drop one of the two"
            )
        given["language"] = None
    found = {field: field for field in FIELDS if field in known and field not in given}
    for field, column in given.items():
        if column is not None and column not in known:
            raise ManifestError(
                f"{name}: columns: {field}: no column {column!r}; {nearest(column, known)}"
            )
        if column is not None:
            found[field] = column
    for field in ("audio", "text"):
        if field not in found:
            raise ManifestError(
                f"{name}: no column {field!r}; name the one that holds the {field}: columns: "
                f"{{{field}: …}}, of {', '.join(sorted(known))}"
            )
    if language is None and "language" not in found:
        raise ManifestError(
            f"{name}: no column of languages; give language: en (or whichever it is), or name the "
            "column: columns: {language: …}"
        )
    return found


def as_text(value: Any) -> Any:
    """A number as text, for ids and speakers that tables hold as numbers; the rest as it is."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value
