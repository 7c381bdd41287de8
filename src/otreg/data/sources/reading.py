"""One entry to all kinds of data: a path, or a mapping that says type and place."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from otreg.data.manifest import check_unique_ids, read_manifest
from otreg.data.sources.columns import check_columns
from otreg.data.sources.huggingface import read_huggingface
from otreg.data.sources.kaldi import read_kaldi
from otreg.data.sources.lhotse_cuts import read_lhotse
from otreg.data.sources.nemo import read_nemo
from otreg.data.sources.streams import UtteranceStream
from otreg.data.sources.tar_shards import read_webdataset
from otreg.data.utterance import ManifestError, Utterance
from otreg.names import nearest

Source = str | Path | Mapping[str, Any]
"""A manifest's path, or a mapping such as {"type": "kaldi", "path": "data/train", "language": "en"}."""

READERS: dict[str, Callable[..., Any]] = {
    "manifest": read_manifest,
    "huggingface": read_huggingface,
    "lhotse": read_lhotse,
    "webdataset": read_webdataset,
    "kaldi": read_kaldi,
    "nemo": read_nemo,
}
"""Type -> reader; the keys of a mapping are its reader's arguments, which say what each means."""

_FLAGS = ("streaming", "drop_empty", "trim_to_supervisions")
_EXAMPLE = "{type: huggingface, path: FOLDER, split: test, language: en}"


def check_source(source: Source) -> None:
    """Refuse a mapping with an unknown type or key, or a value of the wrong kind; reads no data.

    Raises:
        ManifestError: with the nearest known name.

    """
    if isinstance(source, str | Path):
        if Path(source).suffix in (".yaml", ".yml"):
            raise ManifestError(
                f"{source}: a YAML file is no manifest; read it and pass its mapping (otreg evaluate "
                "--data NAME=FILE.yaml does that itself)"
            )
        return
    if not isinstance(source, Mapping):
        raise ManifestError(
            f"expected a manifest's path or a mapping such as {_EXAMPLE}, received {source!r}"
        )
    if "type" not in source or source.get("path") is None:
        missing = "type" if "type" not in source else "path"
        raise ManifestError(
            f"source {dict(source)}: the key {missing!r} is missing; expected {_EXAMPLE}"
        )
    kind = source["type"]
    if kind not in READERS:
        raise ManifestError(f"unknown type {kind!r} of data; {nearest(str(kind), READERS)}")
    known = ["type", *inspect.signature(READERS[kind]).parameters]
    for key, value in source.items():
        if key not in known:
            raise ManifestError(
                f"unknown key {key!r} of data of type {kind}; {nearest(str(key), known)}"
            )
        if value is not None:
            _check_value(key, value)


def read_source(source: Source, *, root: str | Path | None = None) -> list[Utterance]:
    """Read data of any kind as utterances.

    Args:
        source: a manifest's path, or a mapping: its `type` (see `READERS`), its `path`, and further
            arguments of that type's reader.
        root: folder that audio paths start from and stay in, where the mapping names none.

    Returns:
        The utterances, in the data's order.

    Raises:
        ManifestError: data or row that cannot be used, or a source that is a stream.
        ImportError: the package that reads this type is missing; its extra is named.

    """
    found = _read(source, root)
    if isinstance(found, UtteranceStream):
        raise ManifestError(
            f"{found.name} is a stream, whose length is not known, but all rows are needed here (for "
            "evaluation, validation, max_tokens or the encoder cache); drop streaming: true"
        )
    return found


def read_sources(
    sources: Iterable[Source] | Source, *, root: str | Path | None = None
) -> list[Utterance]:
    """Read several sources as one list; ids must be unique across all of them.

    Raises:
        ManifestError: as `read_source`, and for an id that two sources share.

    """
    if isinstance(sources, str | Path | Mapping):
        sources = [sources]
    utterances = [utterance for source in sources for utterance in read_source(source, root=root)]
    if not utterances:
        raise ManifestError("no manifest was given; expected at least one path")
    check_unique_ids(utterances)
    return utterances


def is_stream(source: Source) -> bool:
    """Tell whether a source asks for streaming."""
    return isinstance(source, Mapping) and bool(source.get("streaming"))


def open_stream(source: Source, *, root: str | Path | None = None) -> UtteranceStream:
    """Open a source that is streamed, `streaming: true`; root as in `read_source`.

    Raises:
        ManifestError: it cannot be read, or is not to be streamed.
        ImportError: the package that reads this type is missing.

    """
    found = _read(source, root)
    if not isinstance(found, UtteranceStream):
        raise ManifestError(f"{source} is not streamed; set streaming: true, or use read_source")
    return found


def _read(source: Source, root: str | Path | None) -> Any:
    check_source(source)
    if isinstance(source, str | Path):
        return read_manifest(source, root=root)
    arguments = {key: value for key, value in source.items() if key != "type" and value is not None}
    reader = READERS[source["type"]]
    if root is not None and "root" in inspect.signature(reader).parameters:
        arguments.setdefault("root", root)
    return reader(**arguments)


def _check_value(key: str, value: Any) -> None:
    if key == "columns":
        check_columns(value)
        return
    if key in _FLAGS:
        right, expected = isinstance(value, bool), "true or false"
    elif key == "data_files":
        items = value if isinstance(value, list) else [value]
        right, expected = all(isinstance(item, str) for item in items), "a path or a list of paths"
    else:
        right = isinstance(value, Path) or (isinstance(value, str) and bool(value))
        expected = "text (put it in quotes where YAML takes it for something else)"
    if not right:
        raise ManifestError(f"{key}: expected {expected}, received {value!r}")
