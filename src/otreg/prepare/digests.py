"""What rows, files and models are known by: hashes of their content."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from otreg.data.audio_bytes import AudioBytes
from otreg.data.file_digests import FileDigests
from otreg.data.manifest import Utterance

_DIGESTS = FileDigests()


def content_digest(row: Utterance) -> str:
    """Hash all that a row says, and the content of its audio files in place of their paths.

    Returns:
        A SHA-256 in hexadecimal, the same wherever the files lie.
    """
    record = dataclasses.asdict(dataclasses.replace(row, audio=None)) | {"audio": row.audio}
    del record["source"]
    content = json.dumps(record, sort_keys=True, default=_digest_of_audio)
    return hashlib.sha256(content.encode()).hexdigest()


def file_digest(path: str | Path | AudioBytes) -> str:
    """Hash a file's content; a process reads it again only where it may have changed.

    Returns:
        A SHA-256 in hexadecimal.
    """
    return _DIGESTS.of(path)


def model_identity(source: str | Path, config: Any = None) -> dict[str, Any]:
    """What a model is known by: of a folder a hash of all files in it, of a Hub id its commit.

    Args:
        source: a folder, or a Hub id.
        config: the configuration that was loaded from there; it knows the commit.
    """
    folder = Path(source)
    if not folder.is_dir():
        return {"source": str(source), "commit": getattr(config, "_commit_hash", None)}
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(f"{path.name} {file_digest(path)}\n".encode())
    return {"source": str(source), "sha256": digest.hexdigest()}


def _digest_of_audio(value: Any) -> Any:
    if isinstance(value, Path | AudioBytes):
        return {"sha256": file_digest(value)}
    raise TypeError(f"{type(value).__name__} is no JSON")
