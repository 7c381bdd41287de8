"""Outputs of the frozen encoder, kept on disk so that stages, arms and seeds share them.

A cache is a folder: index.json and safetensors files with one (encoder frames, dim) tensor per
utterance id. It is bound to the encoder (a hash of its weights and configurations) and to the audio
(a hash of each file's content, and the segment). What does not match is refused when reading and
encoded anew when building.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from otreg.data._modes import evaluating
from otreg.data.manifest import Utterance

if TYPE_CHECKING:
    from otreg.data.dataset import SpeechTextDataset

_FORMAT = 1
_INDEX = "index.json"
_SHARD_BYTES = 256 << 20
# Saving and loading change these and not what the encoder does; weights carry their own dtype.
_UNHASHED_CONFIG_KEYS = frozenset(
    [
        "_name_or_path",
        "architectures",
        "auto_map",
        "dtype",
        "processor_class",
        "torch_dtype",
        "transformers_version",
    ]
)

logger = logging.getLogger(__name__)


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
        index = _read_index(self.path)
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

    def __contains__(self, utterance: Utterance) -> bool:
        entry = self._entries.get(utterance.id)
        return entry is not None and _same_audio(entry, utterance)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open files behind: each worker opens its own."""
        return {**self.__dict__, "_files": {}}

    def check(self, utterances: Iterable[Utterance]) -> None:
        """Raise a StaleCacheError unless all utterances are held and their audio is unchanged."""
        for utterance in utterances:
            self._entry(utterance)

    def num_frames(self, utterance: Utterance) -> int:
        """Return the number of encoder frames held for an utterance."""
        return int(self._entry(utterance)["num_frames"])

    def get(self, utterance: Utterance) -> tuple[torch.Tensor, float]:
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
        return self._files[shard].get_tensor(_tensor_name(utterance)), float(entry["duration_s"])

    def _entry(self, utterance: Utterance) -> dict[str, Any]:
        entry = self._entries.get(utterance.id)
        if entry is None:
            raise StaleCacheError(
                f"{utterance.name} is not in the encoder cache {self.path}; "
                "run build_encoder_cache on this data"
            )
        if not _same_audio(entry, utterance):
            raise StaleCacheError(
                f"{utterance.name}: {utterance.audio} or its segment has changed since the encoder "
                f"cache {self.path} was made; run build_encoder_cache again"
            )
        return entry


def build_encoder_cache(
    model: Any, dataset: SpeechTextDataset, path: str | Path, *, batch_size: int = 16
) -> EncoderCache:
    """Encode what a cache does not hold yet, and return the cache.

    Entries of the same encoder and the same audio are kept, all others are made anew; a build that
    was cut short goes on from its last complete file. A second process that builds in the same
    folder waits for the first.

    Args:
        model: a `SpeechLMForConditionalGeneration`; its `encode` is run in evaluation mode, on the
            device where its audio_tower is.
        dataset: the utterances and the processor; must not itself read from a cache.
        path: the cache's folder, made where it is missing.
        batch_size: utterances that are encoded together.

    Returns:
        A cache that holds every utterance of the dataset.

    Raises:
        AudioError: for audio that cannot be used.
        ValueError: for a dataset that reads from a cache.

    """
    if dataset.encoder_cache is not None:
        raise ValueError("the dataset reads from an encoder cache; pass one that reads audio")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, received {batch_size}")
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    fingerprint = encoder_fingerprint(model, dataset.processor)
    with FileLock(path / "lock"):
        index = _read_index(path)
        if index is None or index["fingerprint"] != fingerprint:
            index = {"format": _FORMAT, "fingerprint": fingerprint, "entries": {}}
        _fill(index, model, dataset, path, batch_size)
        _remove_unused_shards(path, index["entries"])
    return EncoderCache(path, fingerprint=fingerprint)


def encoder_fingerprint(model: Any, processor: Any) -> str:
    """Hash all that decides the encoder's outputs.

    Args:
        model: of it are hashed the audio_tower's weights, names, types and configuration, and how
            it is run (short_mel, encoder_frame_plan).
        processor: of it is hashed the feature extractor's configuration.

    Returns:
        A SHA-256 in hexadecimal.

    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.audio_tower.state_dict().items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    for part in (model.audio_tower.config, processor.feature_extractor):
        record = {k: v for k, v in part.to_dict().items() if k not in _UNHASHED_CONFIG_KEYS}
        digest.update(json.dumps(record, sort_keys=True, default=str).encode())
    run = (model.config.short_mel, model.config.encoder_frame_plan)
    digest.update(json.dumps(run).encode())
    return digest.hexdigest()


def _fill(
    index: dict[str, Any], model: Any, dataset: SpeechTextDataset, path: Path, batch_size: int
) -> None:
    """Encode and write what the index lacks."""
    entries = index["entries"]
    missing = [
        position
        for position, utterance in enumerate(dataset.utterances)
        if utterance.id not in entries or not _same_audio(entries[utterance.id], utterance)
    ]
    if missing:
        logger.info("encoding %d of %d utterances into %s", len(missing), len(dataset), path)
    shard: dict[str, torch.Tensor] = {}
    shard_entries: dict[str, dict[str, Any]] = {}
    shard_bytes = 0
    for utterance, states, duration_s in _encode(model, dataset, missing, batch_size):
        shard[_tensor_name(utterance)] = states
        shard_entries[utterance.id] = {
            **_identify(utterance),
            "num_frames": len(states),
            "duration_s": duration_s,
        }
        shard_bytes += states.nbytes
        if shard_bytes >= _SHARD_BYTES:
            _write_shard(path, index, shard, shard_entries)
            shard, shard_entries, shard_bytes = {}, {}, 0
    if shard:
        _write_shard(path, index, shard, shard_entries)


def _encode(
    model: Any, dataset: SpeechTextDataset, positions: Sequence[int], batch_size: int
) -> Iterator[tuple[Utterance, torch.Tensor, float]]:
    """Yield (utterance, states on the CPU, duration) for the given positions."""
    from otreg.data.collate import pad_stack

    device = next(model.audio_tower.parameters()).device
    with evaluating(model):
        for first in range(0, len(positions), batch_size):
            chosen = positions[first : first + batch_size]
            examples = [dataset[position] for position in chosen]
            features, mask = pad_stack([example["input_features"] for example in examples])
            with torch.no_grad():
                output = model.encode(features.to(device), mask.to(device))
            states, states_mask = output.encoder_hidden_states.cpu(), output.encoder_mask.cpu()
            for position, example, row, row_mask in zip(
                chosen, examples, states, states_mask, strict=True
            ):
                yield dataset.utterances[position], row[row_mask].clone(), example["duration_s"]


def _tensor_name(utterance: Utterance) -> str:
    return f"id/{utterance.id}"  # safetensors keeps the bare name "__metadata__" for itself


def _identify(utterance: Utterance) -> dict[str, Any]:
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


def _same_audio(entry: dict[str, Any], utterance: Utterance) -> bool:
    """Compare size and time of modification, and the content where only the time differs.

    A new time of the same content is noted in the entry, so that it is read once.
    """
    if (entry["start_s"], entry["end_s"]) != (utterance.start_s, utterance.end_s):
        return False
    try:
        status = utterance.audio.stat()
        if status.st_size != entry["size"]:
            return False
        if status.st_mtime_ns == entry["modified_ns"]:
            return True
        if _identify(utterance)["sha256"] != entry["sha256"]:
            return False
        entry["modified_ns"] = status.st_mtime_ns
        return True
    except OSError:
        return False


def _read_index(path: Path) -> dict[str, Any] | None:
    try:
        index = json.loads((path / _INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StaleCacheError(
            f"{path / _INDEX} cannot be read ({error}); delete {path} and build it again"
        ) from error
    if not isinstance(index, dict) or index.get("format") != _FORMAT:
        raise StaleCacheError(
            f"{path} is an encoder cache of another format; delete it and build it again"
        )
    return index


def _write_shard(
    path: Path,
    index: dict[str, Any],
    shard: dict[str, torch.Tensor],
    shard_entries: dict[str, dict[str, Any]],
) -> None:
    """Write one safetensors file, then the index that knows of it, each in one step."""
    names = hashlib.sha256("\n".join(shard).encode() + os.urandom(8)).hexdigest()[:16]
    name = f"states-{names}.safetensors"
    save_file(shard, path / (name + ".tmp"))
    os.replace(path / (name + ".tmp"), path / name)
    for identity, entry in shard_entries.items():
        index["entries"][identity] = {**entry, "shard": name}
    staged = path / (_INDEX + ".tmp")
    staged.write_text(json.dumps(index), encoding="utf-8")
    os.replace(staged, path / _INDEX)


def _remove_unused_shards(path: Path, entries: dict[str, dict[str, Any]]) -> None:
    used = {entry["shard"] for entry in entries.values()}
    for file in path.glob("states-*.safetensors*"):
        if file.name not in used:
            file.unlink()
