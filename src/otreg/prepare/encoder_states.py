"""Fill an encoder cache: run the frozen encoder over a data set once, for stages, arms and seeds.

What the cache holds of the same encoder and the same audio is kept; the rest is encoded and added.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from otreg.data.audio import AudioError
from otreg.data.dataset import SpeechTextDataset
from otreg.data.encoder_cache import (
    FILES,
    EncoderCache,
    encoder_folder,
    read_entries,
    span_key,
    write_shard,
)
from otreg.data.file_digests import FileDigests
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
    model: Any,
    dataset: SpeechTextDataset,
    path: str | Path,
    *,
    batch_size: int = 16,
    progress: bool = False,
) -> EncoderCache:
    """Encode what a cache does not hold yet, and return the cache.

    A cache takes any number of data sets and encoders, one after the other, and deletes nothing. A
    build that was cut short goes on where it stopped; one that was killed, from its last complete
    file. A second process that encodes with the same encoder into the same folder waits for the
    first.

    Args:
        model: a `SpeechLMForConditionalGeneration`; its `encode` is run in evaluation mode, on the
            device where its audio_tower is.
        dataset: the rows and the processor; must not itself read from a cache.
        path: the cache's folder, made where it is missing.
        batch_size: clips that are encoded together.
        progress: whether to show a progress bar.

    Returns:
        A cache that holds every clip of the dataset.

    Raises:
        AudioError: for audio that cannot be used.
        StaleCacheError: for a cache that cannot be read.
        ValueError: for a dataset that reads from a cache, or augments.

    """
    if dataset.encoder_cache is not None:
        raise ValueError("the dataset reads from an encoder cache; pass one that reads audio")
    if dataset.augmentation is not None:
        raise ValueError("the dataset augments its audio; pass one without augmentation")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, received {batch_size}")
    path = Path(path)
    fingerprint = encoder_fingerprint(model, dataset.processor)
    folder = encoder_folder(path, fingerprint)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        for left in folder.glob("*.tmp"):  # by a build that was killed
            left.unlink()
        held = read_entries(folder, fingerprint)
        digests = FileDigests(folder / FILES)
        missing: dict[str, Clip] = {}
        for clip in dataset.clips():
            key = span_key(clip, digests)
            if key not in held:
                missing.setdefault(key, clip)
        digests.save()
        if missing:
            logger.info("encoding %d of %d clips into %s", len(missing), len(dataset.clips()), path)
            with closing(
                _encode(model, dataset, missing, digests, batch_size, progress)
            ) as encoded:
                _write(encoded, folder, fingerprint)
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


def _encode(
    model: Any,
    dataset: SpeechTextDataset,
    missing: Mapping[str, Clip],
    digests: FileDigests,
    batch_size: int,
    progress: bool,
) -> Generator[tuple[str, torch.Tensor, float], None, None]:
    """Yield (key, states on the CPU, duration) for the clips, batch by batch."""
    from tqdm.auto import tqdm

    device = next(model.audio_tower.parameters()).device
    waiting = iter(missing.items())
    with evaluating(model), tqdm(total=len(missing), desc="encoding", disable=not progress) as bar:
        while chosen := list(islice(waiting, batch_size)):
            loaded = [dataset.load_clip(clip) for _, clip in chosen]
            for key, clip in chosen:
                if span_key(clip, digests) != key:
                    raise AudioError(
                        f"{clip.name}: audio file {clip.audio} changed while it was being encoded; "
                        "start again when it is complete"
                    )
            states = _encode_batch(model, [features for features, _ in loaded], device)
            for (key, _), (_, duration_s), rows in zip(chosen, loaded, states, strict=True):
                yield key, rows, duration_s
            bar.update(len(chosen))


@torch.no_grad()
def _encode_batch(model: Any, features: Sequence[Any], device: torch.device) -> list[torch.Tensor]:
    """The states (encoder frames, dim) of each of some clips, on the CPU."""
    padded, mask = pad_stack(features)
    output = model.encode(padded.to(device), mask.to(device))
    states, states_mask = output.encoder_hidden_states.cpu(), output.encoder_mask.cpu()
    return [row[row_mask].clone() for row, row_mask in zip(states, states_mask, strict=True)]


def _write(
    encoded: Iterable[tuple[str, torch.Tensor, float]], folder: Path, fingerprint: str
) -> None:
    """Write states into files of some size; also those before an error or an interrupt."""
    states: dict[str, torch.Tensor] = {}
    durations_s: dict[str, float] = {}
    num_bytes = 0
    try:
        for key, rows, duration_s in encoded:
            states[key], durations_s[key] = rows, duration_s
            num_bytes += rows.nbytes
            if num_bytes >= _SHARD_BYTES:
                full, states, num_bytes = states, {}, 0
                write_shard(folder, fingerprint, full, durations_s)
                durations_s = {}
    finally:
        if states:
            write_shard(folder, fingerprint, states, durations_s)
