"""Augmentation of speech in training: speed, reverberation, noise, masked features.

All that is drawn follows from (seed, epoch, id of the clip), so a resumed run, another order and any
number of workers give the same. NumPy generators are used for that reason: the transforms of other
libraries draw from states that a process shares.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from otreg.data.audio import SAMPLE_RATE_HZ, load_audio
from otreg.data.utterance import AudioSpan


@dataclass(frozen=True)
class FeatureMasks:
    """Stretches of frames and of mel bands that become the features' mean, as in SpecAugment.

    Args:
        time_masks: stretches of frames.
        time_mask_frames: the longest of them; also at most max_time_share of all frames.
        band_masks: stretches of mel bands.
        band_mask_size: the widest of them.
        max_time_share: most of the frames that one stretch covers.

    Raises:
        ValueError: a negative number, or a share outside 0 to 1.

    Source: Park et al. 2019, arXiv 1904.08779, without the time warping, which they found to matter
    least; the mean in place of zero, since features are not centred here.
    """

    time_masks: int = 2
    time_mask_frames: int = 100
    band_masks: int = 2
    band_mask_size: int = 27
    max_time_share: float = 0.15

    def __post_init__(self) -> None:
        numbers = (self.time_masks, self.time_mask_frames, self.band_masks, self.band_mask_size)
        if min(numbers) < 0 or not 0 <= self.max_time_share <= 1:
            raise ValueError(
                "expected numbers of at least 0 and max_time_share from 0 to 1, received "
                f"{numbers} and {self.max_time_share}"
            )

    def __call__(self, features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Mask (frames, mels); the argument is not changed.

        Raises:
            ValueError: features of another shape.

        """
        if features.ndim != 2:
            raise ValueError(
                f"expected features (frames, mels) to mask, received shape {features.shape}: this "
                "encoder takes samples; leave the masks out"
            )
        masked = features.copy()
        mean = features.mean()
        frames, bands = features.shape
        longest = min(self.time_mask_frames, int(self.max_time_share * frames))
        for _ in range(self.time_masks):
            start, size = _stretch(frames, longest, rng)
            masked[start : start + size] = mean
        for _ in range(self.band_masks):
            start, size = _stretch(bands, min(self.band_mask_size, bands), rng)
            masked[:, start : start + size] = mean
        return masked


def _stretch(length: int, longest: int, rng: np.random.Generator) -> tuple[int, int]:
    size = int(rng.integers(0, longest + 1))
    return int(rng.integers(0, length - size + 1)), size


@dataclass(frozen=True)
class Augmentation:
    """What is done to every clip before (speed, reverberation, noise) and after its features are made.

    Args:
        seed: of all that is drawn, with the epoch and the clip's id.
        speeds: factors of which one is drawn; 1.1 is shorter and higher. () = none.
        reverberation: recorded impulse responses, of which one is drawn.
        reverberation_probability: share of the clips that get one.
        noise: recordings, a piece of one of which is added; shorter ones are repeated.
        noise_probability: share of the clips that get some.
        noise_snr_db: lowest and highest ratio of the energies of speech and noise.
        masks: of the features; None = none.

    Raises:
        ValueError: a number out of its range.

    """

    seed: int = 0
    speeds: tuple[float, ...] = ()
    reverberation: Sequence[AudioSpan] = ()
    reverberation_probability: float = 0.5
    noise: Sequence[AudioSpan] = ()
    noise_probability: float = 0.5
    noise_snr_db: tuple[float, float] = (10.0, 30.0)
    masks: FeatureMasks | None = None

    def __post_init__(self) -> None:
        if any(not 0.5 <= speed <= 2 for speed in self.speeds):
            raise ValueError(f"speeds must lie between 0.5 and 2, received {list(self.speeds)}")
        for name in ("reverberation_probability", "noise_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, received {getattr(self, name)}")
        if self.noise_snr_db[0] > self.noise_snr_db[1]:
            raise ValueError(
                f"noise_snr_db must be lowest and highest, received {list(self.noise_snr_db)}"
            )
        if self.reverberation:
            try:
                import scipy.signal  # noqa: F401
            except ImportError as error:
                raise ImportError(
                    "reverberation needs scipy: pip install 'otreg[augment]'"
                ) from error

    @property
    def longest(self) -> float:
        """The largest factor by which a clip gets longer."""
        return max([1.0, *(1 / speed for speed in self.speeds)])

    def samples(self, samples: np.ndarray, clip: str, epoch: int) -> np.ndarray:
        """Change the samples (samples,) at 16 kHz of a clip.

        Args:
            samples: float32; not changed.
            clip: its id.
            epoch: of the training, from 0.

        Raises:
            AudioError: a recording of noise or an impulse response cannot be used.

        """
        rng = self._rng("samples", clip, epoch)
        if self.speeds:
            samples = _at_speed(samples, float(rng.choice(self.speeds)))
        if self.reverberation and rng.random() < self.reverberation_probability:
            samples = _reverberated(samples, load_audio(_one_of(self.reverberation, rng)))
        if self.noise and rng.random() < self.noise_probability:
            noise = load_audio(_one_of(self.noise, rng))
            samples = _with_noise(samples, noise, rng.uniform(*self.noise_snr_db), rng)
        return samples

    def features(self, features: np.ndarray, clip: str, epoch: int) -> np.ndarray:
        """Mask the features (frames, mels) of a clip; arguments as of `samples`."""
        if self.masks is None:
            return features
        return self.masks(features, self._rng("features", clip, epoch))

    def _rng(self, what: str, clip: str, epoch: int) -> np.random.Generator:
        digest = hashlib.sha256(f"{self.seed} {epoch} {what} {clip}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def _one_of(spans: Sequence[AudioSpan], rng: np.random.Generator) -> AudioSpan:
    return spans[int(rng.integers(len(spans)))]


def _at_speed(samples: np.ndarray, speed: float) -> np.ndarray:
    """Play faster or slower, with the pitch that goes with it, by soxr."""
    if speed == 1:
        return samples
    import soxr

    changed: np.ndarray = soxr.resample(
        samples, SAMPLE_RATE_HZ * speed, SAMPLE_RATE_HZ, quality="HQ"
    )
    return changed


def _reverberated(samples: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Convolve with an impulse response, the direct sound in its place and the energy kept."""
    from scipy.signal import fftconvolve

    direct = int(np.abs(response).argmax())
    full = fftconvolve(samples, response)[direct : direct + len(samples)]
    energy = float(np.square(full).sum())
    scale = np.sqrt(float(np.square(samples).sum()) / energy) if energy > 0 else 1.0
    return (full * scale).astype(np.float32)


def _with_noise(
    samples: np.ndarray, noise: np.ndarray, snr_db: float, rng: np.random.Generator
) -> np.ndarray:
    """Add a piece of noise of the same length, at a ratio of energies in decibels."""
    if len(noise) > len(samples):
        start = int(rng.integers(len(noise) - len(samples) + 1))
        noise = noise[start : start + len(samples)]
    else:
        noise = np.resize(noise, len(samples))
    energy = float(np.square(noise).mean())
    if energy == 0:
        return samples
    wanted = float(np.square(samples).mean()) / 10 ** (snr_db / 10)
    return (samples + np.sqrt(wanted / energy) * noise).astype(np.float32)
