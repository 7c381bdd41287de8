"""JSONL manifests: one utterance a line, read strictly, with errors that name the line.

    {"id": "u1", "audio": "wav/u1.flac", "text": "hello", "language": "en", "speaker": "s1"}

`docs/data.md` describes every key.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from otreg.data.json_lines import json_objects
from otreg.data.records import REQUIRED_KEYS, check_record, utterance_record
from otreg.data.utterance import ManifestError, Utterance, Word

__all__ = [
    "ManifestError",
    "Utterance",
    "Word",
    "audio_root",
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
    lines = json_objects(path)
    folder = audio_root(path, root)
    utterances: list[Utterance] = []
    first_line_of: dict[str, int] = {}
    for number, record in lines:
        utterance = check_record(record, f"{path}:{number}", folder)
        if utterance.id in first_line_of:
            raise ManifestError(
                f"{path}:{number}: id {utterance.id!r} is already used on line "
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


def audio_root(path: Path, root: str | Path | None) -> Path:
    """The folder that audio paths start from: the root, or that of the file that names them.

    Raises:
        ManifestError: the root is no folder.

    """
    folder = (path.parent if root is None else Path(root)).resolve()
    if not folder.is_dir():
        raise ManifestError(
            f"{path}: the root {str(root)!r} is no folder; name one above the audio"
        )
    return folder


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
