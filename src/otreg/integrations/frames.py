"""Where rows of speech are, and which of them are audio, in families where placeholders do not say it."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor


def gemma3n_rows(model: Any, batch: Mapping[str, Any], clips: Tensor) -> Tensor:
    """(clips,) the encoder's rows of each clip: Gemma 3n fills them up to a fixed number."""
    mask = batch.get("input_features_mask")
    if mask is None:
        return clips[:, 2]
    config = model.config.audio_config
    stride = prod(pair[0] for pair in config.sscp_conv_stride_size)
    kept = mask.bool()[:, ::stride][:, :: config.conf_reduction_factor]
    return kept.sum(1).to(clips.device)


def voxtral_rows(model: Any, batch: Mapping[str, Any], clips: Tensor) -> Tensor:
    """(clips,) the rows of each clip up to its audio's end: Voxtral's windows are 30 s.

    By `num_samples`, (clips,), where the batch has it. Else the end is where the log-mel features
    become and stay their floor, which also cuts digital silence at the end; a last row that holds
    less than 10 ms of audio may be left out.
    """
    features = batch["input_features"]  # (windows, mels, frames of 30 s)
    encoder = model.config.audio_config
    window = features.shape[2]
    per_row = 2 * encoder.intermediate_size // encoder.hidden_size  # frames a row stands for
    counts = clips[:, 2]
    samples = batch.get("num_samples")
    if samples is not None:
        return -(-samples.to(clips.device) // (160 * per_row))
    num_windows = counts * per_row // window
    ends, rows = num_windows.cumsum(0).tolist(), []
    for end, number in zip(ends, num_windows.tolist(), strict=True):
        frames = features[end - number : end].movedim(1, 0).flatten(1)  # (mels, frames)
        sounding = (frames > frames.min()).any(0).nonzero()
        # The last frame that sounds may only touch the audio's end, by half its window, 200 samples.
        last = max(0, 160 * int(sounding[-1]) - 200) + 1 if len(sounding) else 1
        rows.append(-(-last // (160 * per_row)))
    return torch.tensor(rows, device=clips.device).minimum(counts)


def spans_of_ultravox(batch: Mapping[str, Any]) -> Tensor:
    """(clips, 3) row, first column and number of rows of each clip; padding on the left counts."""
    starts, lengths = batch["audio_token_start_idx"], batch["audio_token_len"]
    per_row = batch["audio_batch_size"]
    rows = torch.arange(len(per_row), device=per_row.device).repeat_interleave(per_row)
    return torch.stack([rows, starts, lengths], 1).to(batch["input_ids"].device)
