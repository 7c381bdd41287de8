"""Hugging Face datasets: of the Hub, of a local folder, a parquet file, streamed (extra `datasets`).

`datasets` never decodes audio here, so torchcodec is not needed: bytes and paths go to otreg's own
reader.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from otreg.data.audio_bytes import AudioBytes, MemoryAudio
from otreg.data.file_digests import file_identity
from otreg.data.sources.audiofolder import find_metadata, read_audiofolder
from otreg.data.sources.columns import Columns, as_text, find_columns
from otreg.data.sources.gather import Record, gather, import_extra, usable_rows
from otreg.data.sources.streams import UtteranceStream
from otreg.data.utterance import ManifestError, Utterance

_BATCH_ROWS = 1000
_BUILDERS = {".parquet": "parquet", ".arrow": "arrow"}
_SAVED = ("state.json", "dataset_dict.json")  # in what save_to_disk writes


class DatasetRow(AudioBytes):
    """The audio of one row of a data set, whose bytes stay where the data set has them.

    Args:
        name: of data set and row.
        dataset: a `datasets.Dataset` of the audio column alone, not decoded.
        row: its number.
        files: identity of the Arrow files behind the data set; None where it is in memory.

    """

    def __init__(self, name: str, dataset: Any, row: int, files: list[int | str] | None) -> None:
        super().__init__(name)
        self._dataset, self._row, self._files = dataset, row, files

    def read(self) -> bytes:
        """Return the row's bytes."""
        (value,) = self._dataset[self._row].values()
        return bytes(value["bytes"] if isinstance(value, Mapping) else value)

    def identity(self) -> list[int | str] | None:
        """The data set's files and the row."""
        return None if self._files is None else [*self._files, self._row]


def read_huggingface(
    path: str | Path,
    *,
    name: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    data_files: str | list[str] | None = None,
    columns: Columns = None,
    language: str | None = None,
    root: str | Path | None = None,
    streaming: bool = False,
    drop_empty: bool = False,
) -> list[Utterance] | UtteranceStream:
    """Read a Hugging Face data set.

    A row's id is its column `id`, where the map of columns names one or the table has one; else data
    set, configuration, split and the row's number.

    Args:
        path: a Hub id, a folder (of parquet files, an audio folder, or what `save_to_disk` wrote), a
            parquet or an Arrow file.
        name: the data set's configuration, such as a language.
        split: which split; it may be left out where there is one only. Of an audio folder with one
            metadata file: the files in SPLIT/ or data/SPLIT/.
        revision: commit, tag or branch of a Hub id.
        data_files: which files of the data set, as `datasets.load_dataset` takes it.
        columns: field -> column, or the name of a shipped map such as `common_voice`; fields without
            an entry are read from the column of their own name.
        language: of all rows.
        root: folder that audio paths start from and stay in; None = the data set's own folder. The
            rows of a Hub data set must hold their audio themselves.
        streaming: read rows one after the other, and download nothing beforehand.
        drop_empty: leave rows without transcript or audio out, and log how many.

    Raises:
        ImportError: `datasets` is missing.
        ManifestError: naming the row that cannot be used.

    """
    place = Path(path)
    local = place.exists()
    if not local and _is_path(str(path)):
        raise ManifestError(f"no such data set: {str(path)!r}; relative paths start here")
    metadata = find_metadata(place, split) if place.is_dir() else None
    if metadata is not None:
        if streaming:
            raise ManifestError(f"{path}: an audio folder is not streamed; drop streaming")
        options = {"name": name, "revision": revision, "data_files": data_files}
        if given := [key for key, value in options.items() if value is not None]:
            raise ManifestError(f"{path}: an audio folder has no {' or '.join(given)}; drop it")
        return read_audiofolder(
            metadata,
            columns=columns,
            language=language,
            root=root,
            drop_empty=drop_empty,
            split=split if metadata.parent == place else None,
        )
    title = "/".join(filter(None, (place.stem if local else str(path), name, split)))
    loaded = _load(
        place if local else None, str(path), name, split, revision, data_files, streaming
    )
    table = _Table(title, loaded, columns, language, _folder(place, root) if local else None)
    if streaming:
        return _Stream(table, drop_empty)
    return gather(table.records(), root=table.root or Path(), name=title, drop_empty=drop_empty)


class _Table:
    """A data set whose audio stays undecoded, its columns by field, and its rows as records."""

    def __init__(
        self, title: str, dataset: Any, columns: Columns, language: str | None, root: Path | None
    ) -> None:
        datasets = import_extra("datasets", "datasets", "reading Hugging Face datasets")
        features = dataset.features
        if features is None:
            raise ManifestError(
                f"{title}: its columns are not known before it is read; drop streaming"
            )
        self.title, self.root, self.language = title, root, language
        self.columns = find_columns(columns, list(features), title, language=language)
        audio = self.columns["audio"]
        kind = features[audio]
        if isinstance(kind, datasets.Audio):
            dataset = dataset.cast_column(audio, datasets.Audio(decode=False))
        elif not _holds_audio(kind):
            raise ManifestError(
                f"{title}: column {audio!r} is {kind}; expected encoded audio (bytes and path), or paths"
            )
        self.dataset = dataset.select_columns(sorted(set(self.columns.values())))
        self.labels = {
            field: features[column]
            for field, column in self.columns.items()
            if isinstance(features[column], datasets.ClassLabel)
        }

    def records(self) -> Iterator[tuple[str, Record]]:
        """Every row of a map-style data set; the bytes of its audio are not copied."""
        audio = self.dataset.select_columns([self.columns["audio"]])
        files = [part for item in audio.cache_files for part in file_identity(item["filename"])]
        names = [str(item["filename"]) for item in audio.cache_files]
        identity: list[int | str] | None = [*names, *files] if names else None
        number = 0
        for batch in self.dataset.with_format("arrow").iter(batch_size=_BATCH_ROWS):
            values = {
                field: batch[column].to_pylist()
                for field, column in self.columns.items()
                if field != "audio"
            }
            for index, (path, has_bytes) in enumerate(_places(batch[self.columns["audio"]])):
                where = f"{self.title}: row {number}"
                sound: Any = path
                if has_bytes:
                    sound = DatasetRow(_called(where, path), audio, number, identity)
                row = {field: column[index] for field, column in values.items()}
                yield where, self.record(where, f"{self.title}/{number}", row, sound)
                number += 1

    def record(self, where: str, identity: str, row: dict[str, Any], sound: Any) -> Record:
        """A row as a manifest would write it."""
        if isinstance(sound, str) and self.root is None:
            raise ManifestError(
                f"{where}: it names a file ({sound!r}) instead of holding the audio, which is refused of "
                "a data set of the Hub; download the data set and give its folder as path"
            )
        if isinstance(sound, str) and self.root is not None:
            sound = str(self.root / sound) if sound else None
        record: Record = {"id": identity, "language": self.language, "audio": sound}
        for field, value in row.items():
            if field in self.labels and isinstance(value, int):
                value = self.labels[field].int2str(value) if value >= 0 else None
            if value is not None:
                record[field] = as_text(value) if field in ("id", "speaker") else value
        return record


class _Stream(UtteranceStream):
    def __init__(self, table: _Table, drop_empty: bool) -> None:
        super().__init__(table.title, table.dataset.num_shards)
        self._table, self._drop_empty = table, drop_empty

    def shard(self, index: int) -> Iterator[Utterance]:
        table = self._table
        for _, utterance in usable_rows(
            self._records(index),
            root=table.root or Path(),
            name=f"{table.title}: shard {index}",
            drop_empty=self._drop_empty,
        ):
            yield utterance

    def _records(self, index: int) -> Iterator[tuple[str, Record]]:
        import fsspec.asyn

        table = self._table
        fsspec.asyn.reset_lock()  # a lock that a worker inherits from its parent is never released
        rows = table.dataset.shard(num_shards=self.num_shards, index=index, contiguous=False)
        # Not `for row in rows`: in a DataLoader's worker that would leave out what others read.
        singles = ({key: value[0] for key, value in row.items()} for row in rows.iter(batch_size=1))
        for number, row in enumerate(singles):
            where = f"{table.title}: shard {index}, row {number}"
            sound = row[table.columns["audio"]]
            if isinstance(sound, Mapping):
                content, sound = sound["bytes"], sound["path"]
            else:
                content, sound = (sound, None) if isinstance(sound, bytes) else (None, sound)
            if content is not None:
                sound = MemoryAudio(_called(where, sound), content)
            values = {f: row[column] for f, column in table.columns.items() if f != "audio"}
            yield where, table.record(where, f"{table.title}/{index}-{number}", values, sound)


def _load(
    place: Path | None,
    path: str,
    name: str | None,
    split: str | None,
    revision: str | None,
    data_files: str | list[str] | None,
    streaming: bool,
) -> Any:
    """The data set of one split, as `datasets` has it."""
    datasets = import_extra("datasets", "datasets", "reading Hugging Face datasets")
    options: dict[str, Any] = {"split": split, "streaming": streaming}
    try:
        if place is not None and place.is_file():
            if place.suffix not in _BUILDERS:
                raise ManifestError(
                    f"{path}: expected a .parquet or .arrow file, a folder or a Hub id; a manifest of "
                    "otreg is type: manifest, one of NeMo type: nemo"
                )
            found = datasets.load_dataset(_BUILDERS[place.suffix], data_files=path, **options)
        elif place is not None and any((place / f).is_file() for f in _SAVED):
            if streaming:
                raise ManifestError(
                    f"{path}: what save_to_disk wrote is not streamed; drop streaming"
                )
            found = datasets.load_from_disk(path)
            if split is not None and isinstance(found, Mapping):
                found = found[split]
        else:
            if place is None and split is None:
                raise ManifestError(f"{path}: give a split, such as split: test")
            found = datasets.load_dataset(
                path, name, revision=revision, data_files=data_files, **options
            )
    except ManifestError:
        raise
    except Exception as error:  # network, files, scripts, configurations: datasets has no one class
        raise ManifestError(f"{path}: datasets cannot read it: {_reason(error)}") from error
    if isinstance(found, Mapping):
        if len(found) != 1:
            raise ManifestError(f"{path}: give a split, one of {', '.join(found)}")
        (found,) = found.values()
    return found


def _reason(error: BaseException) -> str:
    """What went wrong, from the error that started it."""
    while error.__cause__ is not None and not isinstance(error, ImportError):
        error = error.__cause__
    if "torchcodec" in str(error):
        return (
            "it holds sound files, not tables, which datasets only reads with torchcodec; download it "
            "(hf download … --repo-type dataset --local-dir FOLDER) and give path: FOLDER"
        )
    return f"{type(error).__name__}: {error}"


def _is_path(path: str) -> bool:
    """Tell whether a string cannot be meant as a Hub id."""
    return path.startswith((".", "/", "~")) or path.count("/") > 1 or Path(path).suffix in _BUILDERS


def _folder(place: Path, root: str | Path | None) -> Path:
    return (Path(root) if root is not None else place if place.is_dir() else place.parent).resolve()


def _holds_audio(kind: Any) -> bool:
    if isinstance(kind, Mapping):
        return set(kind) == {"bytes", "path"}
    return getattr(kind, "dtype", None) in ("string", "large_string", "binary", "large_binary")


def _places(column: Any) -> list[tuple[str | None, bool]]:
    """Of each row of an Arrow column of audio the path, and whether the bytes are there."""
    import pyarrow
    import pyarrow.compute as pc

    if pyarrow.types.is_struct(column.type):
        paths = pc.struct_field(column, "path").to_pylist()
        return list(
            zip(paths, pc.is_valid(pc.struct_field(column, "bytes")).to_pylist(), strict=True)
        )
    if pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type):
        return [(path, False) for path in column.to_pylist()]
    return [(None, there) for there in pc.is_valid(column).to_pylist()]


def _called(where: str, path: str | None) -> str:
    return f"{where} ({path})" if path else where
