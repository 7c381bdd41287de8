"""Speech for the miniature: espeak-ng's voices, then room and noise, and when each word is said."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from otreg.data.audio import SAMPLE_RATE_HZ
from otreg.data.manifest import Word
from otreg.synthetic.espeak import Espeak
from otreg.synthetic.word_times import word_samples


@dataclass(frozen=True)
class Voice:
    """A speaker: an espeak-ng voice name with its pitch (0 to 99) and pitch range (0 to 99)."""

    name: str
    pitch: int = 50
    pitch_range: int = 50


@dataclass(frozen=True)
class Condition:
    """A channel: speaking rate and what the room and the noise do to the signal.

    Attributes:
        rate_wpm: speaking rate in words per minute (espeak-ng's scale; 160 is normal).
        snr_db: signal-to-noise ratio in dB; None adds no noise.
        noise: "white" or "pink".
        reverberation_s: reverberation time RT60 in seconds; 0 for none.
        pause_probability: chance of a pause after a word.
    """

    rate_wpm: int = 160
    snr_db: float | None = None
    noise: str = "white"
    reverberation_s: float = 0.0
    pause_probability: float = 0.08


@dataclass(frozen=True)
class Request:
    """One utterance to synthesise into `path`; `seed` decides its pauses, room and noise."""

    path: Path
    text: str
    voice: Voice
    condition: Condition
    seed: int


class Synthesizer:
    """espeak-ng in this process; call it with a request to get samples and word times.

    Raises:
        ImportError: when the extra `demo` is not installed.
        RuntimeError: when espeak-ng refuses to start.
    """

    def __init__(self) -> None:
        self._espeak = Espeak()

    def __call__(self, request: Request) -> tuple[np.ndarray, tuple[Word, ...]]:
        """Synthesise.

        Returns:
            (samples,) float32 at 16 kHz with a peak of 0.5, and when each word of the text is said.

        Raises:
            ValueError: for an unknown voice.
            RuntimeError: where what is said is not the words of the text one to one.
        """
        import soxr

        rng = np.random.default_rng(request.seed)
        ssml, positions = _with_pauses(request.text, request.condition.pause_probability, rng)
        speech = self._espeak.speak(
            ssml,
            request.voice.name,
            rate_wpm=request.condition.rate_wpm,
            pitch=request.voice.pitch,
            pitch_range=request.voice.pitch_range,
            seed=request.seed,
        )
        spans = word_samples(
            speech, request.text, positions, lambda word: len(self._espeak.phonemes(word))
        )
        samples = soxr.resample(speech.samples, speech.rate_hz, SAMPLE_RATE_HZ, quality="MQ")
        samples, cut, (before, after) = _trim(samples, rng)
        first, last = before / SAMPLE_RATE_HZ, (len(samples) - after) / SAMPLE_RATE_HZ

        def moment_s(sample: int) -> float:
            return min(max(sample / speech.rate_hz - cut / SAMPLE_RATE_HZ + first, first), last)

        words = tuple(
            Word(word, round(moment_s(begin), 4), round(moment_s(end), 4))
            for word, (begin, end) in zip(request.text.split(), spans, strict=True)
        )
        if any(word.end_s <= word.start_s for word in words):
            raise RuntimeError(f"a word of {request.text!r} was not heard: {words}")
        samples = degrade(samples, request.condition, rng)
        peak = max(float(np.abs(samples).max()), 1e-6)
        return (0.5 * samples / peak).astype(np.float32), words


def _with_pauses(
    text: str, probability: float, rng: np.random.Generator
) -> tuple[str, tuple[int, ...]]:
    """Return SSML in which some words are followed by 150 to 450 ms of silence, and where words start."""
    words = text.split()
    ssml = "<speak>"
    positions = []
    for position, word in enumerate(words):
        positions.append(len(ssml))
        ssml += word
        if position + 1 < len(words):
            if rng.random() < probability:
                ssml += f' <break time="{int(rng.integers(150, 450))}ms"/>'
            ssml += " "
    return ssml + "</speak>", tuple(positions)


def _trim(samples: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, int, tuple[int, int]]:
    """Cut the silence espeak-ng leaves at both ends, then put back 20 to 150 ms of it.

    Returns:
        The samples, how many were cut from the start, and how many were put at each end.
    """
    cut = 0
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    if loud.size:
        cut = int(loud[0])
        samples = samples[cut : loud[-1] + 1]
    before, after = rng.integers(SAMPLE_RATE_HZ // 50, SAMPLE_RATE_HZ * 3 // 20, size=2)
    return np.pad(samples, (int(before), int(after))), cut, (int(before), int(after))


def degrade(samples: np.ndarray, condition: Condition, rng: np.random.Generator) -> np.ndarray:
    """Add the condition's reverberation and noise; the length stays the same.

    The room is exponentially decaying white noise after a direct path; pink noise has a 1/f power
    spectrum; the signal-to-noise ratio is that of the mean powers.

    Raises:
        ValueError: for an unknown kind of noise.
    """
    if condition.noise not in ("white", "pink"):
        raise ValueError(f"noise must be white or pink, got {condition.noise!r}")
    length = len(samples)
    if condition.reverberation_s > 0:
        time_s = np.arange(int(condition.reverberation_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
        tail = rng.standard_normal(time_s.size) * 10 ** (-3 * time_s / condition.reverberation_s)
        response = 0.04 * tail
        response[0] = 1.0
        size = 1 << (length + response.size - 1).bit_length()  # a power of two: fast to transform
        spectrum = np.fft.rfft(samples, size) * np.fft.rfft(response, size)
        samples = np.fft.irfft(spectrum, size)[:length]
    if condition.snr_db is not None:
        noise = rng.standard_normal(length)
        if condition.noise == "pink":
            size = 1 << (length - 1).bit_length()
            spectrum = np.fft.rfft(rng.standard_normal(size))
            spectrum /= np.sqrt(np.maximum(np.arange(spectrum.size), 1.0))
            noise = np.fft.irfft(spectrum, size)[:length]
        power = np.mean(samples**2) / 10 ** (condition.snr_db / 10)
        samples = samples + noise * np.sqrt(power / np.mean(noise**2))
    return samples.astype(np.float32)


def _synthesize_all(requests: Sequence[Request]) -> list[tuple[Word, ...]]:
    import soundfile

    synthesizer = Synthesizer()
    times = []
    for request in requests:
        samples, words = synthesizer(request)
        soundfile.write(request.path, samples, SAMPLE_RATE_HZ, subtype="PCM_16")
        times.append(words)
    return times


def synthesize_corpus(
    requests: Sequence[Request], *, num_processes: int = 2
) -> list[tuple[Word, ...]]:
    """Write a 16 kHz file for each request (format by the path's extension), in parallel.

    The same requests in the same order give the same samples (espeak-ng carries the phase of its
    voice from one utterance to the next). A worker's error is raised here; files already written
    stay.

    Returns:
        For each request, when each word of its text is said.
    """
    for folder in {request.path.parent for request in requests}:
        folder.mkdir(parents=True, exist_ok=True)
    shares = [list(requests[start::num_processes]) for start in range(num_processes)]
    context = multiprocessing.get_context("spawn")
    times: list[tuple[Word, ...]] = [()] * len(requests)
    with context.Pool(num_processes) as pool:
        for start, done in enumerate(pool.map(_synthesize_all, shares, chunksize=1)):
            times[start::num_processes] = done
    return times
