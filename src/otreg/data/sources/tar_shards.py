"""Tar shards as webdataset writes them: members of one key, such as u1.flac and u1.json, are a sample."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from otreg.data.audio import SUFFIXES
from otreg.data.audio_bytes import AudioBytes
from otreg.data.file_digests import file_identity
from otreg.data.sources.columns import Columns, as_text, check_columns
from otreg.data.sources.gather import Record, gather, import_extra, usable_rows
from otreg.data.sources.streams import UtteranceStream
from otreg.data.utterance import ManifestError, Utterance

_BLOCK = 512
_MAX_TEXT_BYTES = 16_000_000


class TarMember(AudioBytes):
    """A member of a tar file that is not compressed: its place in it.

    Args:
        shard: the tar file.
        member: its name in there.
        offset: where its content starts, in bytes.
        size: how long it is, in bytes.
        identity: of the shard, as `file_identity` gave it when it was indexed.

    """

    def __init__(
        self, shard: Path, member: str, offset: int, size: int, identity: list[int | str]
    ) -> None:
        super().__init__(f"{shard}/{member}")
        self._shard, self._offset, self._size, self._identity = shard, offset, size, identity

    def read(self) -> bytes:
        """Return the member's content.

        Raises:
            OSError: the shard is gone, or has changed since it was indexed.

        """
        if file_identity(self._shard) != self._identity:
            raise OSError(f"{self._shard} has changed since it was indexed; read the source again")
        with open(self._shard, "rb") as file:
            file.seek(self._offset)
            return file.read(self._size)

    def identity(self) -> list[int | str]:
        """The shard's size and times as they are now, and the place in it."""
        return [*file_identity(self._shard), self._offset, self._size]


def read_webdataset(
    path: str | Path,
    *,
    columns: Columns = None,
    language: str | None = None,
    streaming: bool = False,
    drop_empty: bool = False,
) -> list[Utterance] | UtteranceStream:
    """Read tar shards as webdataset writes them; nothing is unpacked.

    A sample's id is its key (the member's path up to the first point of its name), its audio the
    member with a suffix of a sound file, its text the member .txt or a key of the member .json, which
    may also hold language and speaker. Other members are not read.

    Args:
        path: a tar file, a folder of them, or a pattern such as train-*.tar or train-{000..099}.tar
            (braces: extra `webdataset`).
        columns: which keys of the .json are id, text, language, speaker, start_s and end_s.
        language: of all samples, in place of the .json's.
        streaming: index each shard only when it is reached.
        drop_empty: leave samples without transcript or audio out, and log how many.

    Raises:
        ManifestError: naming shard and sample that cannot be used.

    """
    shards = _shards(str(path))
    named = check_columns(columns)
    if language is not None:
        named["language"] = None
    if streaming:
        return _TarStream(str(path), shards, named, language, drop_empty)
    records = (pair for shard in shards for pair in _records(shard, named, language))
    return gather(records, root=Path(), name=str(path), drop_empty=drop_empty)


class _TarStream(UtteranceStream):
    def __init__(
        self,
        name: str,
        shards: list[Path],
        columns: dict[str, str | None],
        language: str | None,
        drop_empty: bool,
    ) -> None:
        super().__init__(name, len(shards))
        self._shards, self._columns, self._language = shards, columns, language
        self._drop_empty = drop_empty

    def shard(self, index: int) -> Iterator[Utterance]:
        shard = self._shards[index]
        records = _records(shard, self._columns, self._language)
        for _, utterance in usable_rows(
            records, root=Path(), name=str(shard), drop_empty=self._drop_empty
        ):
            yield utterance


def _shards(path: str) -> list[Path]:
    """The tar files that a path or a pattern names, in order."""
    named = [path]
    if "{" in path and not Path(path).exists():
        expander = import_extra("braceexpand", "webdataset", "a pattern with braces")
        named = list(expander.braceexpand(path))
    found = []
    for item in named:
        place = Path(item)
        if place.is_dir():
            found += sorted(place.glob("*.tar"))
        elif place.is_file():
            found.append(place)
        elif any(sign in place.name for sign in "*?["):
            found += sorted(place.parent.glob(place.name))
        else:
            raise ManifestError(f"no such tar file or folder: {item!r}; relative paths start here")
    if not found:
        raise ManifestError(f"{path!r} names no tar file; expected a .tar, a folder or a pattern")
    return found


def _records(
    shard: Path, columns: dict[str, str | None], language: str | None
) -> Iterator[tuple[str, Record]]:
    """Each sample of a shard: members that stand side by side and share a key."""
    key: str | None = None
    sample: dict[str, Any] = {}
    for member_key, suffix, content in _members(shard):
        if key is not None and member_key != key:
            yield _record(shard, key, sample, columns, language)
            sample = {}
        key = member_key
        if suffix in sample:
            raise ManifestError(
                f"{shard}: sample {key!r} has two members .{suffix}; keep one of them"
            )
        sample[suffix] = content
    if key is not None:
        yield _record(shard, key, sample, columns, language)


def _members(shard: Path) -> Iterator[tuple[str, str, AudioBytes | bytes | None]]:
    """Key, suffix and content of a shard's members; None for content that nothing needs."""
    end = 0
    identity = file_identity(shard)
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
                name = re.fullmatch(r"((?:.*/)?[^/.][^/.]*)\.([^/]+)", member.name)
                if member.isdir() or name is None:
                    continue
                suffix = name[2].lower()
                if not member.isreg():
                    raise ManifestError(
                        f"{shard}: {member.name!r} is a link or a device; pack the file itself"
                    )
                if member.issparse():
                    raise ManifestError(
                        f"{shard}: {member.name!r} is sparse, which can promise any size; pack it without "
                        "--sparse"
                    )
                if suffix in SUFFIXES:
                    yield (
                        name[1],
                        suffix,
                        TarMember(shard, member.name, member.offset_data, member.size, identity),
                    )
                elif suffix in ("txt", "json"):
                    if member.size > _MAX_TEXT_BYTES:
                        raise ManifestError(
                            f"{shard}: {member.name!r} has {member.size} bytes; expected at most "
                            f"{_MAX_TEXT_BYTES // 1_000_000} MB of text"
                        )
                    file = tar.extractfile(member)
                    yield name[1], suffix, file.read() if file else b""
                else:
                    yield name[1], suffix, None
    except (tarfile.TarError, EOFError) as error:
        raise ManifestError(
            f"{shard}: no intact tar file ({error}); unpack a compressed one (gunzip), copy or make a "
            "damaged one again"
        ) from error
    with open(shard, "rb") as file:  # tarfile ends in silence at a header that it cannot read
        file.seek(end)
        if file.read(2 * _BLOCK) != bytes(2 * _BLOCK):
            raise ManifestError(
                f"{shard}: is truncated or damaged at byte {end}: no end of the archive there; copy or "
                "make it again"
            )


def _record(
    shard: Path,
    key: str,
    sample: dict[str, Any],
    columns: dict[str, str | None],
    language: str | None,
) -> tuple[str, Record]:
    where = f"{shard}: sample {key!r}"
    audio = [content for content in sample.values() if isinstance(content, AudioBytes)]
    if len(audio) > 1:
        raise ManifestError(f"{where} has {len(audio)} sound files; expected one")
    facts = _json(sample["json"], where) if "json" in sample else {}
    record: Record = {"id": key, "audio": audio[0] if audio else None, "language": language}
    for field in ("id", "text", "language", "speaker", "start_s", "end_s"):
        column = columns.get(field, field)
        if column is None:
            continue
        if field in columns and column not in facts:
            raise ManifestError(f"{where}: its .json has no key {column!r} (columns: {field})")
        if facts.get(column) is not None:
            record[field] = as_text(facts[column]) if field in ("id", "speaker") else facts[column]
    if "txt" in sample:
        text = _text(sample["txt"], where)
        if record.get("text") not in (None, text):
            raise ManifestError(
                f"{where}: its .txt and its .json differ in the text; keep one of them"
            )
        record["text"] = text
    if record["language"] is None:
        raise ManifestError(
            f"{where}: its .json names no language; give the source one: language: en"
        )
    return where, record


def _text(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise ManifestError(f"{where}: its text is not UTF-8; save it so") from error


def _json(content: bytes, where: str) -> dict[str, Any]:
    try:
        facts = json.loads(_text(content, where))
    except (ValueError, RecursionError) as error:
        if isinstance(error, ManifestError):
            raise
        raise ManifestError(f"{where}: its .json cannot be read: {error}") from error
    if not isinstance(facts, dict):
        raise ManifestError(f"{where}: its .json is no object; expected {{'text': …}}")
    return facts
