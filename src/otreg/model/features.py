"""Input features of one utterance, without padding, from a Hugging Face feature extractor."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

SAMPLE_RATE_HZ = 16_000


LOUDEST = 128.0
"""Samples beyond this are integers that were cast to float; speech itself stays within [-1, 1]."""


def check_samples(samples: Any) -> np.ndarray:
    """Return one utterance's samples as float32, or refuse what would give features silently wrong.

    Whole numbers are refused, not scaled: their range does not follow from their type alone (24-bit
    audio comes as int32).

    Args:
        samples: (samples,) of any floating type, mono, in [-1, 1] (somewhat louder is taken as it
            is).

    Returns:
        (samples,) float32.

    Raises:
        ValueError: not one-dimensional, empty, not of a floating type, not finite, or in the range
            of whole numbers.
    """
    samples = np.asarray(samples)
    if samples.ndim != 1 or samples.size == 0:
        hint = ""
        if samples.ndim == 2 and samples.size:
            channels = int(np.argmin(samples.shape))
            hint = (
                f". Pass each utterance as an array of its own; where axis {channels} holds "
                f"channels, average them: samples.mean(axis={channels})"
            )
        raise ValueError(
            f"expected mono audio of shape (samples,), not empty; got shape {samples.shape}{hint}"
        )
    if not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(
            f"expected floating-point samples in [-1, 1], got {samples.dtype}; divide by full "
            "scale (32768 for 16 bit), or load the file with otreg.data.load_audio"
        )
    with np.errstate(over="ignore"):
        samples = samples.astype(np.float32, copy=False)
    if not np.isfinite(samples).all():
        raise ValueError("the audio holds NaN or infinite samples; repair it or leave it out")
    loudest = float(np.abs(samples).max())
    if loudest > LOUDEST:
        raise ValueError(
            f"expected samples in [-1, 1], got {loudest:g}; divide by full scale (32768 for 16 bit)"
        )
    return samples


def extract_features(feature_extractor: Any, samples: np.ndarray) -> np.ndarray:
    """Compute the features of one utterance at its true length.

    Whisper's are those that WhisperFeatureExtractor gives for audio padded with zeros to 30 s, cut
    after the last frame whose window touches the audio; everything after it is silence, which the
    model puts back. They cost time by the audio's length, not by 30 s.

    Args:
        feature_extractor: of Whisper, the wav2vec 2.0 family, SeamlessM4T (Wav2Vec2-BERT), ….
        samples: (samples,) of any floating type, mono, 16 kHz, in [-1, 1].

    Returns:
        (frames, mels) or (samples,) float32.

    Raises:
        ValueError: as `check_samples`, or longer than the encoder can take.
    """
    samples = check_samples(samples)
    if is_whisper(feature_extractor):
        return _whisper_features(feature_extractor, samples)
    extracted = feature_extractor(samples, sampling_rate=SAMPLE_RATE_HZ, return_tensors="np")
    key = "input_features" if "input_features" in extracted else "input_values"
    features = extracted[key][0]
    if features.ndim == 2 and "attention_mask" in extracted:
        features = features[: int(extracted["attention_mask"][0].sum())]
    return np.ascontiguousarray(features, dtype=np.float32)


def num_feature_frames(feature_extractor: Any, num_samples: int) -> int:
    """Count the frames that `extract_features` gives for audio of that length, without the audio.

    Args:
        feature_extractor: as in `extract_features`.
        num_samples: at 16 kHz, >= 1.

    Returns:
        frames (or samples, for encoders that read the waveform).

    Raises:
        ValueError: longer than the encoder can take.
    """
    if is_whisper(feature_extractor):
        _check_length(feature_extractor, num_samples)
        return _whisper_frames(feature_extractor, num_samples)
    if feature_extractor.model_input_names[0] == "input_values":
        return num_samples
    return len(extract_features(feature_extractor, np.zeros(num_samples, dtype=np.float32)))


def longest_audio_s(feature_extractor: Any) -> float | None:
    """Give the most audio that an encoder takes at once, in seconds; None where it takes any.

    Args:
        feature_extractor: as in `extract_features`, or None where a processor has none.
    """
    if not is_whisper(feature_extractor):
        return None
    return float(feature_extractor.n_samples / SAMPLE_RATE_HZ)


def is_whisper(feature_extractor: Any) -> bool:
    """Tell whether a feature extractor pads to a fixed length, as Whisper's does."""
    return hasattr(feature_extractor, "nb_max_frames") and hasattr(feature_extractor, "hop_length")


def _whisper_features(extractor: Any, samples: np.ndarray) -> np.ndarray:
    _check_length(extractor, len(samples))
    padded = min(len(samples) + extractor.n_fft + extractor.hop_length, extractor.n_samples)
    features = extractor(
        samples, sampling_rate=SAMPLE_RATE_HZ, padding="max_length", max_length=padded
    )["input_features"][0]
    frames = _whisper_frames(extractor, len(samples))
    return np.ascontiguousarray(np.asarray(features, dtype=np.float32)[:, :frames].T)


def _whisper_frames(extractor: Any, num_samples: int) -> int:
    """Frame t covers samples from ``t hop - n_fft / 2`` on: count those that start in the audio."""
    frames = math.ceil((num_samples + extractor.n_fft / 2) / extractor.hop_length)
    return min(frames, extractor.nb_max_frames)


def _check_length(extractor: Any, num_samples: int) -> None:
    if num_samples > extractor.n_samples:
        raise ValueError(
            f"the audio lasts {num_samples / SAMPLE_RATE_HZ:.2f} s; this encoder takes at most "
            f"{extractor.n_samples / SAMPLE_RATE_HZ:.0f} s. Cut it into segments (start_s, end_s "
            "in the manifest): to train, data.long_audio=split or otreg prepare split; to transcribe, "
            "otreg transcribe cuts by itself"
        )
