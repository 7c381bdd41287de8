"""Problems like speech and its transcript, for the benchmarks of the transport."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SEED = 0
NOISE = 1.0  # a frame's noise relative to its token: their cosine is about 0.7


@dataclass(frozen=True)
class Problem:
    """A padded batch: x (batch, n, dim), y (batch, m, dim), masses a and b, zero at padding."""

    name: str
    x: Tensor
    y: Tensor
    a: Tensor
    b: Tensor
    sizes: list[tuple[int, int]]


def cost_of(x: Tensor, y: Tensor) -> Tensor:
    """1 - cos(x, y), as any user of torch writes it."""
    normalize = torch.nn.functional.normalize
    return 1 - torch.bmm(normalize(x, dim=2), normalize(y, dim=2).transpose(1, 2))


def ragged_sizes(rng: np.random.Generator, batch: int = 16) -> list[tuple[int, int]]:
    """Frames and tokens of utterances as LibriSpeech's: 2-16 s, most of them long; 3.4 tokens/s."""
    durations_s = rng.triangular(2, 15, 16, batch)
    rates_hz = rng.uniform(12.5, 25, batch)
    return [(round(s * hz), round(3.4 * s)) for s, hz in zip(durations_s, rates_hz, strict=True)]


def make_problem(name: str) -> Problem:
    """Random speech and transcript: each frame is a token of a monotone alignment plus noise.

    Tokens are Gaussian vectors of norm about 1. Tokens hold the floor in turn for at least a frame,
    their shares drawn from a Dirichlet distribution; to each frame noise is added and its norm is
    drawn anew. Masses are uniform over frames and over tokens, so durations and masses disagree.
    """
    rng = np.random.default_rng(SEED)
    if name == "ragged":
        sizes, dim = ragged_sizes(rng), 1024
    else:
        batch, n, m, dim = map(int, name.split("x"))
        sizes = [(n, m)] * batch
    n_max, m_max = (max(column) for column in zip(*sizes, strict=True))
    x = np.zeros((len(sizes), n_max, dim), np.float32)
    y = np.zeros((len(sizes), m_max, dim), np.float32)
    a, b = np.zeros(x.shape[:2], np.float32), np.zeros(y.shape[:2], np.float32)
    for k, (n, m) in enumerate(sizes):
        tokens = rng.standard_normal((m, dim)) / dim**0.5
        durations = 1 + rng.multinomial(n - m, rng.dirichlet(np.full(m, 2.0)))
        noise = NOISE * rng.standard_normal((n, dim)) / dim**0.5
        frames = np.repeat(tokens, durations, axis=0) + noise
        x[k, :n] = frames * np.exp(0.2 * rng.standard_normal((n, 1)))
        y[k, :m] = tokens
        a[k, :n], b[k, :m] = 1 / n, 1 / m
    tensors = (torch.from_numpy(array) for array in (x, y, a, b))
    return Problem(name, *tensors, sizes)
