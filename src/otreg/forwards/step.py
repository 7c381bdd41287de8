"""What the passes of one optimiser step share, however it is cut."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from otreg.objectives.base import transcribed_clips


def transcript_ids(batches: Iterable[Mapping[str, Any]]) -> Tensor:
    """(k,) the sorted distinct ids of the transcripts of some batches."""
    found = [b["text_ids"][b["text_mask"]] for b in batches if transcribed_clips(b).any()]
    return torch.cat(found).unique() if found else torch.zeros(0, dtype=torch.long)


def draw_seed(seed: int, step: int) -> int:
    """Seeds what objectives draw in a step of a run."""
    return int.from_bytes(hashlib.sha256(f"{seed} {step}".encode()).digest()[:6], "big")
