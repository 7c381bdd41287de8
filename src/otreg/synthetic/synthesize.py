"""Speech for the miniature: espeak-ng through ctypes, then room and noise.

espeak-ng is GPL-3 and comes in the extra `demo` (package espeakng-loader, which carries the library
and its voices). Its state is global to a process, and a process that was forked after it was
initialised hangs; so `synthesize_corpus` starts its workers with spawn.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from otreg.data.audio import SAMPLE_RATE_HZ

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: the call returns once every sample was handed over
_UTF8, _SSML = 1, 0x10
_IPA_SEPARATED = 0x02 | ord("_") << 8  # phoneme mode: IPA, phonemes separated by underscores
_RATE, _PITCH, _RANGE = 1, 3, 4  # espeak_PARAMETER
_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


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


def _start_espeak() -> tuple[ctypes.CDLL, int]:
    """Start espeak-ng in this process; return its library and sampling rate in Hz."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise ImportError("this needs espeak-ng: pip install 'otreg[demo]'") from error
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    rate_hz = library.espeak_Initialize(
        _SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0
    )
    if rate_hz <= 0:
        raise RuntimeError(f"espeak-ng did not start (code {rate_hz})")
    return library, rate_hz


def phonemes(texts: Sequence[str], languages: Sequence[str]) -> list[list[str]]:
    """Spell texts in espeak-ng's IPA phonemes, without stress marks and word boundaries.

    Args:
        texts: what is said.
        languages: of each, as espeak-ng names them ("en", "es", "pt-br").

    Returns:
        For each text its phonemes in order; those of several letters stay whole.

    Raises:
        ImportError: when the extra `demo` is not installed.
        ValueError: for a language that espeak-ng does not speak.
    """
    library, _ = _start_espeak()
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    spelled = []
    for text, language in zip(texts, languages, strict=True):
        if library.espeak_SetVoiceByName(language.encode()) != 0:
            raise ValueError(f"espeak-ng does not speak the language {language!r}")
        rest = ctypes.c_char_p(text.encode())
        symbols: list[str] = []
        while rest.value:  # one clause a call
            clause = library.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, _IPA_SEPARATED)
            symbols += (clause or b"").decode().replace(" ", "_").split("_")
        symbols = [re.sub(r"[ˈˌ]|\([a-z-]+\)", "", symbol) for symbol in symbols]
        spelled.append([symbol for symbol in symbols if symbol])
    return spelled


class Synthesizer:
    """espeak-ng in this process; call it with a request to get float32 samples at 16 kHz.

    Raises:
        ImportError: when the extra `demo` is not installed.
        RuntimeError: when espeak-ng refuses to start.
    """

    def __init__(self) -> None:
        self._chunks: list[np.ndarray] = []
        self._library, self._rate_hz = _start_espeak()
        self._callback = _CALLBACK(self._receive)  # kept: ctypes does not hold a reference
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: object, count: int, _events: object) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())  # type: ignore[call-overload]
        return 0

    def __call__(self, request: Request) -> np.ndarray:
        """Synthesise; returns (samples,) float32 at 16 kHz with a peak of 0.5."""
        import soxr

        rng = np.random.default_rng(request.seed)
        name = request.voice.name.encode()
        if self._library.espeak_SetVoiceByName(name) != 0:
            raise ValueError(f"espeak-ng has no voice {request.voice.name!r}")
        for parameter, value in (
            (_RATE, request.condition.rate_wpm),
            (_PITCH, request.voice.pitch),
            (_RANGE, request.voice.pitch_range),
        ):
            self._library.espeak_SetParameter(parameter, value, 0)
        # Breathy voices draw their noise from espeak-ng's own generator, which the clock seeds.
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(request.seed))
        data = _with_pauses(request.text, request.condition.pause_probability, rng).encode()
        self._chunks = []
        code = self._library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _UTF8 | _SSML, None, None)
        if code != 0 or not self._chunks:
            raise RuntimeError(f"espeak-ng could not speak {request.text!r} (code {code})")
        samples = np.concatenate(self._chunks).astype(np.float32) / 32768.0
        samples = soxr.resample(samples, self._rate_hz, SAMPLE_RATE_HZ, quality="MQ")
        samples = degrade(_trim(samples, rng), request.condition, rng)
        return (0.5 * samples / max(float(np.abs(samples).max()), 1e-6)).astype(np.float32)


def _with_pauses(text: str, probability: float, rng: np.random.Generator) -> str:
    """Return SSML in which some words are followed by 150 to 450 ms of silence."""
    words = text.split()
    parts = []
    for position, word in enumerate(words):
        parts.append(word)
        if position + 1 < len(words) and rng.random() < probability:
            parts.append(f'<break time="{int(rng.integers(150, 450))}ms"/>')
    return "<speak>" + " ".join(parts) + "</speak>"


def _trim(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut the silence espeak-ng leaves at both ends, then put back 20 to 150 ms of it."""
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    if loud.size:
        samples = samples[loud[0] : loud[-1] + 1]
    before, after = rng.integers(SAMPLE_RATE_HZ // 50, SAMPLE_RATE_HZ * 3 // 20, size=2)
    return np.pad(samples, (int(before), int(after)))


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


def _synthesize_all(requests: Sequence[Request]) -> None:
    import soundfile

    synthesizer = Synthesizer()
    for request in requests:
        soundfile.write(request.path, synthesizer(request), SAMPLE_RATE_HZ, subtype="PCM_16")


def synthesize_corpus(requests: Sequence[Request], *, num_processes: int = 2) -> None:
    """Write a 16 kHz file for each request (format by the path's extension), in parallel.

    The same requests in the same order give the same samples (espeak-ng carries the phase of its
    voice from one utterance to the next). A worker's error is raised here; files already written
    stay.
    """
    for folder in {request.path.parent for request in requests}:
        folder.mkdir(parents=True, exist_ok=True)
    shares = [list(requests[start::num_processes]) for start in range(num_processes)]
    context = multiprocessing.get_context("spawn")
    with context.Pool(num_processes) as pool:
        pool.map(_synthesize_all, [share for share in shares if share], chunksize=1)
