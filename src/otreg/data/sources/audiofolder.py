"""Audio folders as Hugging Face has them: sound files and a metadata.csv or .jsonl that names them.

They are read without `datasets`, whose own reader of them needs torchcodec.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from otreg.data.json_lines import json_objects
from otreg.data.sources.columns import Columns, as_text, find_columns
from otreg.data.sources.gather import Record, gather
from otreg.data.utterance import ManifestError, Utterance

METADATA = ("metadata.csv", "metadata.jsonl")
_FILE_NAMES = ("file_name", "audio_file_name")


def find_metadata(folder: Path, split: str | None) -> Path | None:
    """The metadata of an audio folder, or of one split in it; None where it is none."""
    places = [folder] if split is None else [folder / split, folder / "data" / split, folder]
    for place in places:
        for name in METADATA:
            if (place / name).is_file():
                return place / name
    return None


def read_audiofolder(
    metadata: Path,
    *,
    columns: Columns,
    language: str | None,
    root: str | Path | None,
    drop_empty: bool,
    split: str | None = None,
) -> list[Utterance]:
    """Read an audio folder by its metadata.

    Args:
        metadata: metadata.csv (with a line of names) or metadata.jsonl; `file_name` names the sound
            file, relative to the metadata's folder.
        columns: as in `read_huggingface`.
        language: as in `read_huggingface`.
        root: folder that no path may leave; None = the metadata's.
        drop_empty: as in `read_huggingface`.
        split: only the files in SPLIT/ or data/SPLIT/; None = all of the metadata's.

    Raises:
        ManifestError: naming the line that cannot be used, or no file of the split.

    """
    lines = _csv(metadata) if metadata.suffix == ".csv" else _jsonl(metadata)
    folder = metadata.parent.resolve()
    if split is not None:
        lines = _of_split(lines, split, metadata)
    return gather(
        _records(folder, lines, columns, language),
        root=folder if root is None else Path(root).resolve(),
        name=str(metadata),
        drop_empty=drop_empty,
    )


def _records(
    folder: Path,
    lines: Iterator[tuple[str, dict[str, Any]]],
    columns: Columns,
    language: str | None,
) -> Iterator[tuple[str, Record]]:
    for where, line in lines:
        name = _file_name_key(line, where)
        known = {"audio": line[name]} | {key: value for key, value in line.items() if key != name}
        found = find_columns(columns, known, where, language=language)
        record: Record = {"language": language} if language is not None else {}
        for field, column in found.items():
            value = known.get(column)
            record[field] = as_text(value) if field in ("id", "speaker") else value
        if isinstance(record["audio"], str) and Path(record["audio"]).name:
            record.setdefault("id", str(Path(record["audio"]).with_suffix("")))
            record["audio"] = str(folder / record["audio"])
        yield where, {key: value for key, value in record.items() if value is not None}


def _file_name_key(line: dict[str, Any], where: str) -> str:
    name = next((key for key in _FILE_NAMES if key in line), None)
    if name is None:
        raise ManifestError(f"{where}: no key 'file_name'; an audio folder's metadata needs it")
    return name


def _of_split(
    lines: Iterator[tuple[str, dict[str, Any]]], split: str, metadata: Path
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines whose file is in SPLIT/ or data/SPLIT/, and those that name none, to be refused."""
    found, folders = False, set()
    for where, line in lines:
        name = line[_file_name_key(line, where)]
        if not isinstance(name, str) or not Path(name).name:
            yield where, line
            continue
        parents = PurePosixPath(name).parts[:-1]
        own = "/".join(parents[: 2 if parents[:1] == ("data",) else 1])
        if own in (split, f"data/{split}"):
            found = True
            yield where, line
        elif own:
            folders.add(own)
    if not found:
        there = f"its files are in {', '.join(sorted(folders))}" if folders else "it has no folders"
        raise ManifestError(
            f"{metadata}: no file of split {split!r}, expected in {split}/ or data/{split}/; {there}: "
            "correct the split, or drop it to read all"
        )


def _csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of a CSV file with a line of names; values are strings, None where empty."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for line in reader:
                where = f"{path}:{reader.line_num}"
                if None in line or None in line.values():
                    raise ManifestError(
                        f"{where}: expected {len(reader.fieldnames or ())} fields, as many as the first "
                        "line names"
                    )
                record: dict[str, Any] = {key: value or None for key, value in line.items()}
                for key in ("start_s", "end_s"):
                    if record.get(key) is not None:
                        record[key] = _seconds(record[key], key, where)
                yield where, record
        except (csv.Error, UnicodeDecodeError) as error:
            raise ManifestError(
                f"{path}:{reader.line_num + 1}: no CSV in UTF-8: {error}"
            ) from error


def _seconds(value: str, key: str, where: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ManifestError(f"{where}: {key!r} must be seconds, received {value!r}") from None


def _jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((f"{path}:{number}", line) for number, line in json_objects(path))
