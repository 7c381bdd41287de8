"""NeMo's manifests: one JSON object a line, with audio_filepath, offset, duration, text, lang."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from otreg.data.checks import check_seconds
from otreg.data.json_lines import json_objects
from otreg.data.manifest import audio_root
from otreg.data.sources.gather import Record, gather
from otreg.data.utterance import ManifestError, Utterance

_LANGUAGES = ("lang", "language", "source_lang")


def read_nemo(
    path: str | Path,
    *,
    language: str | None = None,
    root: str | Path | None = None,
    drop_empty: bool = False,
) -> list[Utterance]:
    """Read a manifest of NVIDIA NeMo.

    A line's speech is `duration` seconds from `offset` on (0 where there is none), as NeMo reads it;
    without duration it goes to the file's end. Its id is its key `id`, or else the audio's path
    without its suffix and, where there is one, the offset. Keys that otreg has no field for are kept
    in `custom`.

    Args:
        path: the manifest.
        language: of lines that have no key `lang` (or `language`, `source_lang`).
        root: folder that audio paths start from and stay in; None = the manifest's own.
        drop_empty: leave lines without transcript out, and log how many.

    Raises:
        ManifestError: naming the line that cannot be used.

    """
    path = Path(path)
    return gather(
        _records(path, language), root=audio_root(path, root), name=str(path), drop_empty=drop_empty
    )


def _records(path: Path, language: str | None) -> Iterator[tuple[str, Record]]:
    for number, line in json_objects(path):
        where = f"{path}:{number}"
        yield where, _record(dict(line), where, language)


def _record(line: dict[str, Any], where: str, language: str | None) -> Record:
    if "shard_id" in line:
        raise ManifestError(
            f"{where}: it names a shard of a tarred data set; read the tar files themselves "
            "(type: webdataset), or NeMo's manifest of the files"
        )
    audio = line.pop("audio_filepath", None)
    offset = check_seconds(line.pop("offset", None), "'offset'", where)
    duration = check_seconds(line.pop("duration", None), "'duration'", where)
    languages = [line.pop(key) for key in _LANGUAGES if line.get(key) is not None]
    if len({str(item) for item in languages}) > 1:
        raise ManifestError(f"{where}: its languages differ: {languages}; keep one of them")
    given = languages[0] if languages else language
    if given is None:
        raise ManifestError(f"{where}: no 'lang'; give the line one, or the source a language")
    identity = line.pop("id", None)
    if identity is None and isinstance(audio, str) and Path(audio).name:
        identity = str(Path(audio).with_suffix("")) + ("" if offset is None else f"@{offset:g}")
    record: Record = {"id": str(identity), "audio": audio, "text": line.pop("text", None)}
    record |= {"language": given, "speaker": line.pop("speaker", None), "start_s": offset}
    record["end_s"] = None if duration is None else (offset or 0.0) + duration
    return record | {"custom": line or None}
