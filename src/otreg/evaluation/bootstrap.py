"""Bootstrap over utterances: sums over resampled utterances, and intervals of their ratios."""

import numpy as np

BOOTSTRAP_SAMPLES = 1000
BOOTSTRAP_SEED = 0
_BLOCK = 1 << 22  # drawn positions held at once


def resampled_sums(columns: np.ndarray, *, key: int | tuple[int, ...] = ()) -> np.ndarray:
    """Sums of columns over utterances drawn with replacement.

    One draw serves all columns, so what stands in one row stays together: this is what makes a
    comparison of two models paired. The same key and number of utterances give the same draws.

    Args:
        columns: (utterances, columns) what each utterance adds to each sum.
        key: further seeds, such as a hash of the utterances' ids; sets drawn under different keys
            are independent.

    Returns:
        (BOOTSTRAP_SAMPLES, columns) float64.

    Source: Bisani and Ney, Bootstrap estimates for confidence intervals in ASR performance
        evaluation, ICASSP 2004.
    """
    columns = np.asarray(columns, dtype=np.float64)
    size = len(columns)
    parts = key if isinstance(key, tuple) else (key,)
    rng = np.random.default_rng([BOOTSTRAP_SEED, *parts] if parts else BOOTSTRAP_SEED)
    sums = np.empty((BOOTSTRAP_SAMPLES, columns.shape[1]))
    per_block = max(1, _BLOCK // size)
    for first in range(0, BOOTSTRAP_SAMPLES, per_block):
        count = min(per_block, BOOTSTRAP_SAMPLES - first)
        drawn = rng.integers(size, size=(count, size)) + size * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * size).reshape(count, size)
        sums[first : first + count] = times @ columns
    return sums


def interval(values: np.ndarray) -> tuple[float, float]:
    """The 2.5 and 97.5 % points of resampled values; what is not a number is left out."""
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


def ratio_interval(numerator: np.ndarray, denominator: np.ndarray) -> tuple[float, float]:
    """95 % interval of sum(numerator) / sum(denominator), resampled over utterances.

    Args:
        numerator: (utterances,) such as errors.
        denominator: (utterances,) such as reference words; at least one is positive.
    """
    sums = resampled_sums(np.stack([numerator, denominator], axis=1))
    return interval(divide(sums[:, 0], sums[:, 1]))


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator, NaN where the denominator is 0."""
    result = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    return np.divide(numerator, denominator, out=result, where=denominator != 0)
