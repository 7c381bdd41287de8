"""What a step is known by: digests of configuration, data, weights, libraries and our own source.

Two calls of one step share its result only where all of these agree; a path is never part of a key.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from otreg.data.manifest import read_manifest
from otreg.versions import versions

__all__ = ["Digests", "digest", "libraries", "source_digest"]

PACKAGE = Path(__file__).parents[1]
_SHARED = ("names.py", "pair.py", "shapes.py", "versions.py")
_MORE_LIBRARIES = ("safetensors", "soxr", "espeakng-loader")
_SHOWN = 16  # hexadecimal digits, 64 bits: enough for the steps of one folder


def digest(value: Any) -> str:
    """A digest of plain data; equal data give equal digests.

    Args:
        value: what JSON can hold; mappings may differ in order. Paths count as their text.
    """
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_SHOWN]


@cache
def libraries() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result, and the kind of machine."""
    found = {name: text for name, text in versions().items() if name != "platform"}
    for name in _MORE_LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found | {"machine": platform.machine()}


@cache
def source_digest(parts: tuple[str, ...], package: Path = PACKAGE) -> str:
    """A digest of parts of otreg's own source, and of the small files that all parts share.

    Args:
        parts: folders and files of the package, such as ("data", "experiment/steps.py").
        package: the package's folder.
    """
    files = []
    for part in (*_SHARED, *parts):
        path = package / part
        files += [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    total = hashlib.sha256()
    for path in sorted({file for file in files if file.suffix != ".pyc" and file.is_file()}):
        name = path.relative_to(package).as_posix()
        total.update(f"{name} {_read(path)}\n".encode())
    return total.hexdigest()[:_SHOWN]


class Digests:
    """Digests of files, folders and manifests by their content.

    A file is read once; after that its digest is kept for as long as its size and its time of
    modification stay, across calls in `path`.

    Args:
        path: where digests are kept between calls.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, list[Any]] = {}
        self._changed = False
        try:
            self._known = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._known = {}

    def file(self, path: Path) -> str:
        """The digest of a file's content.

        Raises:
            OSError: the file cannot be read.
        """
        status = path.stat()
        name = os.path.relpath(path, self.path.parent)
        stamp = [status.st_size, status.st_mtime_ns]
        known = self._known.get(name)
        if known is None or known[:2] != stamp:
            known = self._known[name] = [*stamp, _read(path)]
            self._changed = True
        return str(known[2])

    def manifest(self, path: Path) -> str:
        """The digest of a manifest's text and of every audio file that it names.

        Raises:
            ManifestError: the manifest cannot be used.
            OSError: an audio file cannot be read.
        """
        audio = [file for row in read_manifest(path) for file in _audio_files(row)]
        names = dict.fromkeys(audio)  # a file that is named by many rows counts once
        return digest([self.file(path), *(self.file(file) for file in names)])

    def folder(self, path: Path) -> str:
        """The digest of all files in a folder, with their names."""
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return digest([[file.relative_to(path).as_posix(), self.file(file)] for file in files])

    def of(self, path: Path) -> str:
        """The digest of a file or a folder, as bytes."""
        return self.folder(path) if path.is_dir() else self.file(path)

    def save(self) -> None:
        """Keep the digests for later calls; what has gone is forgotten."""
        if not self._changed:
            return
        folder = self.path.parent
        known = {name: value for name, value in self._known.items() if (folder / name).exists()}
        staged = self.path.with_name(self.path.name + ".tmp")
        staged.write_text(json.dumps(known), encoding="utf-8")
        os.replace(staged, self.path)
        self._changed = False


def _read(path: Path) -> str:
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def _audio_files(row: Any) -> Iterable[Path]:
    """A row's audio and that of further clips in its messages."""
    messages: Sequence[Any] = getattr(row, "messages", None) or ()
    parts = [part for message in messages for part in message["content"]]
    found = [row.audio, *(part.get("audio") for part in parts)]
    return [Path(path) for path in found if path is not None]
