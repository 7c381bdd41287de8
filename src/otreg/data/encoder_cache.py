"""Outputs of frozen encoders, kept on disk so that manifests, stages, arms and seeds share them.

A cache is a folder with one folder an encoder inside:

    CACHE/<first 16 digits of the encoder's fingerprint>/
        states-<random>.safetensors    some (encoder frames, dim) tensors
        files.json                     hashes of the audio files, see `otreg.data.file_digests`
        lock                           held while a process writes

A tensor is named by what was encoded: "last/<SHA-256 of the file> <start_s> <end_s>". Names of rows
and paths play no part, so manifests that share ids, or files that move, share one cache. "last" says
which states they are, the encoder's output; those of other layers would stand beside it under names
of their own. A file's metadata say which encoder made it and list its entries, so each file is
complete in itself: there is no index to keep in step, and nothing is ever deleted or rewritten.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from otreg.data.audio import AudioError
from otreg.data.file_digests import FileDigests
from otreg.data.utterance import AudioSpan

FORMAT = "2"
FILES = "files.json"
LAST = "last"


class StaleCacheError(ValueError):
    """A cache that does not hold what is asked of it, or cannot be read; build it again."""


class Entry(NamedTuple):
    """What a cache knows of a piece of audio: where its states are, and how long they are."""

    shard: str
    num_frames: int
    duration_s: float


class EncoderCache:
    """Read the outputs that `build_encoder_cache` wrote.

    Args:
        path: the cache's folder.
        fingerprint: what the encoder must be, from `encoder_fingerprint(model, processor)`.

    Raises:
        StaleCacheError: when there is no cache, none of this encoder, or one that cannot be read.

    """

    def __init__(self, path: str | Path, *, fingerprint: str) -> None:
        self.path = Path(path)
        self.fingerprint = fingerprint
        self.folder = encoder_folder(self.path, fingerprint)
        if not self.folder.is_dir():
            others = self.path.is_dir() and any(self.path.iterdir())
            raise StaleCacheError(
                f"the encoder cache {self.path} was made by another encoder (weights or "
                "configuration differ); run build_encoder_cache with this one"
                if others
                else f"{self.path} holds no encoder cache; make one with build_encoder_cache"
            )
        self._entries = read_entries(self.folder, fingerprint)
        self._digests = FileDigests(self.folder / FILES)
        self._files: dict[str, Any] = {}

    def __len__(self) -> int:
        """Return the number of different pieces of audio that are held."""
        return len(self._entries)

    def __contains__(self, span: AudioSpan) -> bool:
        return span_key(span, self._digests) in self._entries

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open files behind: each worker opens its own."""
        return {**self.__dict__, "_files": {}}

    def check(self, spans: Iterable[AudioSpan]) -> None:
        """Raise a StaleCacheError unless all utterances or clips are held, as they are now."""
        for span in spans:
            self._find(span)

    def num_frames(self, span: AudioSpan) -> int:
        """Return the number of encoder frames held for an utterance or clip."""
        return self._find(span)[1].num_frames

    def get(self, span: AudioSpan) -> tuple[torch.Tensor, float]:
        """Return (encoder frames, dim) outputs of an utterance or clip and its duration in seconds.

        Raises:
            StaleCacheError: when it is not held, or has changed.
            AudioError: when its audio file cannot be read.

        """
        key, entry = self._find(span)
        if entry.shard not in self._files:
            self._files[entry.shard] = _open(self.folder / entry.shard)
        return self._files[entry.shard].get_tensor(f"{LAST}/{key}"), entry.duration_s

    def _find(self, span: AudioSpan) -> tuple[str, Entry]:
        key = span_key(span, self._digests)
        entry = self._entries.get(key)
        if entry is None:
            raise StaleCacheError(
                f"{span.name}: {span.audio} is not in the encoder cache {self.path}, or it or its "
                "segment has changed since; run build_encoder_cache on this data"
            )
        return key, entry


def span_key(span: AudioSpan, digests: FileDigests) -> str:
    """What a piece of audio is known by: the content of its file, and its segment.

    Raises:
        AudioError: when the file cannot be read.

    """
    if span.audio is None:
        raise AudioError(f"{span.name} has no audio; expected an audio file")
    try:
        content = digests.of(span.audio)
    except OSError as error:
        raise AudioError(
            f"{span.name}: audio file {span.audio} cannot be read: {error.strerror or error}"
        ) from error
    end_s = None if span.end_s is None else float(span.end_s)
    return f"{content} {float(span.start_s or 0.0)!r} {end_s!r}"


def encoder_folder(path: Path, fingerprint: str) -> Path:
    """The folder of one encoder in a cache; refuses a cache of an earlier format."""
    if (path / "index.json").exists():
        raise StaleCacheError(
            f"{path} is an encoder cache of an earlier version of otreg; delete it and build it again"
        )
    return path / fingerprint[:16]


def read_entries(folder: Path, fingerprint: str) -> dict[str, Entry]:
    """Key -> entry of all that an encoder's folder holds, from the headers of its files."""
    entries = {}
    for shard in sorted(folder.glob("states-*.safetensors")):
        metadata = _open(shard).metadata() or {}
        if metadata.get("format") != FORMAT or metadata.get("encoder") != fingerprint:
            raise StaleCacheError(
                f"{shard} is of another format or encoder; delete it and run build_encoder_cache "
                "again"
            )
        for key, (num_frames, duration_s) in json.loads(metadata["entries"]).items():
            entries[key] = Entry(shard.name, int(num_frames), float(duration_s))
    return entries


def write_shard(
    folder: Path,
    fingerprint: str,
    states: Mapping[str, torch.Tensor],
    durations_s: Mapping[str, float],
) -> None:
    """Write one file of states, in one step.

    Args:
        folder: the encoder's, see `encoder_folder`.
        fingerprint: the encoder's.
        states: key (`span_key`) -> (encoder frames, dim).
        durations_s: key -> seconds of audio.

    """
    entries = {key: [len(tensor), durations_s[key]] for key, tensor in states.items()}
    metadata = {"format": FORMAT, "encoder": fingerprint, "entries": json.dumps(entries)}
    path = folder / f"states-{os.urandom(8).hex()}.safetensors"
    staged = path.with_name(path.name + ".tmp")
    tensors = {f"{LAST}/{key}": tensor for key, tensor in states.items()}
    save_file(tensors, staged, metadata=metadata)
    os.replace(staged, path)


def _open(shard: Path) -> Any:
    try:
        return safe_open(str(shard), framework="pt")
    except (OSError, SafetensorError) as error:
        raise StaleCacheError(
            f"{shard} cannot be read ({error}); delete it and run build_encoder_cache again"
        ) from error
