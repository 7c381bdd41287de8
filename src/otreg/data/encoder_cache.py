"""Outputs of the frozen encoder, kept on disk so that stages, arms and seeds share them.

A cache is a folder: index.json and safetensors files with one (encoder frames, dim) tensor per
utterance id. It is bound to the encoder (a hash of its weights and configurations) and to the audio
(a hash of each file's content, and the segment). What does not match is refused when reading and
encoded anew when building.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from otreg.data.utterance import AudioSpan

FORMAT = 1
INDEX = "index.json"


class StaleCacheError(ValueError):
    """A cache that does not belong to this encoder or to this audio; build it again."""


class EncoderCache:
    """Read the outputs that `build_encoder_cache` wrote.

    Args:
        path: the cache's folder.
        fingerprint: what the encoder must be, from `encoder_fingerprint(model, processor)`.

    Raises:
        StaleCacheError: when there is no cache, or it was made by another encoder.

    """

    def __init__(self, path: str | Path, *, fingerprint: str) -> None:
        self.path = Path(path)
        self.fingerprint = fingerprint
        index = read_index(self.path)
        if index is None:
            raise StaleCacheError(
                f"{self.path} holds no encoder cache; make one with build_encoder_cache"
            )
        if index["fingerprint"] != fingerprint:
            raise StaleCacheError(
                f"the encoder cache {self.path} was made by another encoder (weights or "
                "configuration differ); make it again with build_encoder_cache"
            )
        self._entries: dict[str, dict[str, Any]] = index["entries"]
        self._files: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, utterance: AudioSpan) -> bool:
        entry = self._entries.get(utterance.id)
        return entry is not None and same_audio(entry, utterance)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open files behind: each worker opens its own."""
        return {**self.__dict__, "_files": {}}

    def check(self, utterances: Iterable[AudioSpan]) -> None:
        """Raise a StaleCacheError unless all utterances are held and their audio is unchanged."""
        for utterance in utterances:
            self._entry(utterance)

    def num_frames(self, utterance: AudioSpan) -> int:
        """Return the number of encoder frames held for an utterance."""
        return int(self._entry(utterance)["num_frames"])

    def get(self, utterance: AudioSpan) -> tuple[torch.Tensor, float]:
        """Return an utterance's (encoder frames, dim) outputs and its duration in seconds.

        Raises:
            StaleCacheError: when the utterance is not held, or its audio has changed.

        """
        entry = self._entry(utterance)
        shard = entry["shard"]
        if shard not in self._files:
            try:
                self._files[shard] = safe_open(str(self.path / shard), framework="pt")
            except (OSError, SafetensorError) as error:
                raise StaleCacheError(
                    f"{self.path / shard} cannot be read ({error}); delete {self.path} and run "
                    "build_encoder_cache again"
                ) from error
        return self._files[shard].get_tensor(tensor_name(utterance)), float(entry["duration_s"])

    def _entry(self, utterance: AudioSpan) -> dict[str, Any]:
        entry = self._entries.get(utterance.id)
        if entry is None:
            raise StaleCacheError(
                f"{utterance.name} is not in the encoder cache {self.path}; "
                "run build_encoder_cache on this data"
            )
        if not same_audio(entry, utterance):
            raise StaleCacheError(
                f"{utterance.name}: {utterance.audio} or its segment has changed since the encoder "
                f"cache {self.path} was made; run build_encoder_cache again"
            )
        return entry


def tensor_name(utterance: AudioSpan) -> str:
    """The name of an utterance's tensor in its file."""
    return f"id/{utterance.id}"  # safetensors keeps the bare name "__metadata__" for itself


def identify_audio(utterance: AudioSpan) -> dict[str, Any]:
    """What the audio of an utterance is known by: content, size, time of modification, segment."""
    assert utterance.audio is not None, "callers pass rows with speech"
    status = utterance.audio.stat()
    with open(utterance.audio, "rb") as file:
        content = hashlib.sha256()
        while block := file.read(1 << 20):
            content.update(block)
    return {
        "sha256": content.hexdigest(),
        "size": status.st_size,
        "modified_ns": status.st_mtime_ns,
        "start_s": utterance.start_s,
        "end_s": utterance.end_s,
    }


def same_audio(entry: dict[str, Any], utterance: AudioSpan) -> bool:
    """Compare size and time of modification, and the content where only the time differs.

    A new time of the same content is noted in the entry, so that it is read once.
    """
    if (entry["start_s"], entry["end_s"]) != (utterance.start_s, utterance.end_s):
        return False
    assert utterance.audio is not None, "callers pass rows with speech"
    try:
        status = utterance.audio.stat()
        if status.st_size != entry["size"]:
            return False
        if status.st_mtime_ns == entry["modified_ns"]:
            return True
        if identify_audio(utterance)["sha256"] != entry["sha256"]:
            return False
        entry["modified_ns"] = status.st_mtime_ns
        return True
    except OSError:
        return False


def read_index(path: Path) -> dict[str, Any] | None:
    """The index of a cache folder, None where there is none; refuses one that cannot be read."""
    try:
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StaleCacheError(
            f"{path / INDEX} cannot be read ({error}); delete {path} and build it again"
        ) from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise StaleCacheError(
            f"{path} is an encoder cache of another format; delete it and build it again"
        )
    return index
