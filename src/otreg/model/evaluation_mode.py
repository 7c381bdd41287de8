"""Run a model aside of its training, and leave it and the random states as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode, then give every module back the mode that it had."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, was_training in training.items():
            module.training = was_training


@contextmanager
def same_randomness() -> Iterator[None]:
    """Give Python's, NumPy's and torch's random states back as they were, the GPU's included."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (others draw from it)
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def rest(module: nn.Module) -> None:
    """Put what does not train into evaluation mode: no dropout in it, no new statistics.

    A layer that recomputes its activations goes on doing so, which transformers' layers do in training
    mode only: gradients may pass through frozen layers. One with a dropout rate of its own cannot.
    """
    for part in module.modules():
        part.training = _recomputes(part)


def _recomputes(module: nn.Module) -> bool:
    if not getattr(module, "gradient_checkpointing", False):  # asked first: this runs at every step
        return False
    rates = (rate for name, rate in vars(module).items() if "drop" in name)
    return not any(isinstance(rate, float) and rate > 0 for rate in rates)
