"""Fill an encoder cache: run the frozen encoder over a data set once, for stages, arms and seeds.

Entries of the same encoder and the same audio are kept, all others are made anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors.torch import save_file

from otreg.data.dataset import SpeechTextDataset
from otreg.data.encoder_cache import (
    FORMAT,
    INDEX,
    EncoderCache,
    identify_audio,
    read_index,
    same_audio,
    tensor_name,
)
from otreg.data.padding import pad_stack
from otreg.data.segments import Clip
from otreg.model.evaluation_mode import evaluating

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
        index = read_index(path)
        if index is None or index["fingerprint"] != fingerprint:
            index = {"format": FORMAT, "fingerprint": fingerprint, "entries": {}}
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
        for position, utterance in enumerate(dataset.clips())
        if utterance.id not in entries or not same_audio(entries[utterance.id], utterance)
    ]
    if missing:
        logger.info(
            "encoding %d of %d utterances into %s", len(missing), len(dataset.clips()), path
        )
    shard: dict[str, torch.Tensor] = {}
    shard_entries: dict[str, dict[str, Any]] = {}
    shard_bytes = 0
    for utterance, states, duration_s in _encode(model, dataset, missing, batch_size):
        shard[tensor_name(utterance)] = states
        shard_entries[utterance.id] = {
            **identify_audio(utterance),
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
) -> Iterator[tuple[Clip, torch.Tensor, float]]:
    """Yield (utterance, states on the CPU, duration) for the given positions."""
    device = next(model.audio_tower.parameters()).device
    clips = dataset.clips()
    with evaluating(model):
        for first in range(0, len(positions), batch_size):
            chosen = positions[first : first + batch_size]
            loaded = [dataset.load_clip(clips[position]) for position in chosen]
            features, mask = pad_stack([clip_features for clip_features, _ in loaded])
            with torch.no_grad():
                output = model.encode(features.to(device), mask.to(device))
            states, states_mask = output.encoder_hidden_states.cpu(), output.encoder_mask.cpu()
            for position, (_, duration_s), row, row_mask in zip(
                chosen, loaded, states, states_mask, strict=True
            ):
                yield clips[position], row[row_mask].clone(), duration_s


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
    staged = path / (INDEX + ".tmp")
    staged.write_text(json.dumps(index), encoding="utf-8")
    os.replace(staged, path / INDEX)


def _remove_unused_shards(path: Path, entries: dict[str, dict[str, Any]]) -> None:
    used = {entry["shard"] for entry in entries.values()}
    for file in path.glob("states-*.safetensors*"):
        if file.name not in used:
            file.unlink()
