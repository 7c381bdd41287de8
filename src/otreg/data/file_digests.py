"""Hashes of files, remembered so that a file is read again only when it may have changed."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from otreg.data.audio_bytes import AudioBytes


class FileDigests:
    """SHA-256 of files by path, and of audio that is no file of its own.

    A file counts as unchanged while its size, its time of modification and its time of change
    (ctime) stay the same. Programs can set the first two back, but not the third, which every write
    and every move renews. Not seen: a second write within one tick of the file system's clock (some
    milliseconds) that keeps the size, and file systems that report no time of change of their own
    (Windows, some network storage), where size and time of modification decide.

    Args:
        path: a JSON file to remember the hashes in; None = only as long as the object lives. A file
            that cannot be read is as good as none.

    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._known: dict[str, list[int | str]] = {}
        self._saved = True
        if path is not None:
            try:
                known = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                known = None
            self._known = known if isinstance(known, dict) else {}

    def of(self, file: str | Path | AudioBytes) -> str:
        """Return a file's SHA-256 in hexadecimal.

        Raises:
            OSError: the file cannot be read.

        """
        if isinstance(file, AudioBytes):
            identity = file.identity()
            if identity is None:  # nothing says whether it has changed
                return _sha256(file)
            name, seen = f"bytes: {file}", identity
        else:
            name = os.path.abspath(file)
            seen = file_identity(name)
        known = self._known.get(name)
        if known is None or known[:-1] != seen:
            known = [*seen, _sha256(file if isinstance(file, AudioBytes) else name)]
            self._known[name] = known
            self._saved = False
        return str(known[-1])

    def save(self) -> None:
        """Write the hashes to the file, in one step, where there are new ones."""
        if self.path is None or self._saved:
            return
        staged = self.path.with_name(self.path.name + ".tmp")
        staged.write_text(json.dumps(self._known), encoding="utf-8")
        os.replace(staged, self.path)
        self._saved = True


def file_identity(file: str | Path) -> list[int | str]:
    """Size, time of modification and time of change of a file.

    Raises:
        OSError: there is no such file.

    """
    status = os.stat(file)
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _sha256(file: str | Path | AudioBytes) -> str:
    if isinstance(file, AudioBytes):
        return hashlib.sha256(file.read()).hexdigest()
    digest = hashlib.sha256()
    with open(file, "rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
