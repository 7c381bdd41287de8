"""What a step is known by: digests of configuration, data, weights, libraries and our own source.

Two calls of one step share its result only where all of these agree; a path is never part of a key.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import platform
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from otreg.data.file_digests import FileDigests
from otreg.data.manifest import read_manifest
from otreg.data.messages import audio_files
from otreg.versions import versions

__all__ = ["Digests", "digest", "libraries", "own_source", "source_digest"]

PACKAGE = Path(__file__).parents[1]
_SHARED = ("languages.py", "names.py", "pair.py", "shapes.py", "versions.py")
_MORE_LIBRARIES = ("safetensors", "soxr", "espeakng-loader")
_CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
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
    found = versions(_MORE_LIBRARIES)
    del found["platform"]
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
        total.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()[:_SHOWN]


def own_source(value: Any) -> dict[str, str | None]:
    """Digests of the modules that plain data name as `package.module:callable`.

    Such code lies outside of otreg, and what it does decides the result as our own source does. Only
    the module itself is read, not what it imports.

    Args:
        value: plain data, searched at every depth.

    Returns:
        Module -> digest; None where its source cannot be found.
    """
    found: dict[str, str | None] = {}
    if isinstance(value, Mapping):
        for item in value.values():
            found |= own_source(item)
    elif isinstance(value, list | tuple):
        for item in value:
            found |= own_source(item)
    elif isinstance(value, str) and _CALLABLE.fullmatch(value):
        module = value.partition(":")[0]
        found[module] = _module_digest(module)
    return found


def _module_digest(module: str) -> str | None:
    try:
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            return None
        return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()
    except (ImportError, ValueError, OSError):
        return None


class Digests:
    """Digests of files, folders and manifests by their content.

    Args:
        path: where the digests of files are remembered, see `otreg.data.file_digests`.
    """

    def __init__(self, path: Path) -> None:
        self._files = FileDigests(path)

    def file(self, path: Path) -> str:
        """The digest of a file's content.

        Raises:
            OSError: the file cannot be read.
        """
        return self._files.of(path)

    def manifest(self, path: Path) -> str:
        """The digest of a manifest's text and of every audio file that it names.

        Raises:
            ManifestError: the manifest cannot be used.
            OSError: an audio file cannot be read.
        """
        audio = [file for row in read_manifest(path) for file in audio_files(row)]
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
        """Remember the digests of files for later calls."""
        self._files.save()
