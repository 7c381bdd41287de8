"""espeak-ng through ctypes: samples, what it says when, and phonemes.

espeak-ng is GPL-3 and comes in the extra `demo` (package espeakng-loader, which carries the library
and its voices). Its state is global to a process, and a process that was forked after it was
initialised hangs: use spawn.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

WORD, PHONEME = 1, 7  # espeak_EVENT_TYPE
_END_OF_LIST = 0

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: the call returns once every sample was handed over
_PHONEME_EVENTS = 1  # espeakINITIALIZE_PHONEME_EVENTS
_UTF8, _SSML = 1, 0x10
_IPA_SEPARATED = 0x02 | ord("_") << 8  # phoneme mode: IPA, phonemes separated by underscores
_RATE, _PITCH, _RANGE = 1, 3, 4  # espeak_PARAMETER


class _Id(ctypes.Union):
    _fields_ = (
        ("number", ctypes.c_int),
        ("name", ctypes.c_char_p),
        ("string", ctypes.c_char * 8),
    )


class _Event(ctypes.Structure):
    """espeak_EVENT of espeak-ng's speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


@dataclass(frozen=True)
class Event:
    """What espeak-ng says of a moment of its speech.

    Attributes:
        kind: `WORD` where a word starts, `PHONEME` where a phoneme does.
        position: of the word in the input, in characters from 0 (markup counts).
        sample: the moment, in samples of `Speech`.
        phoneme: espeak-ng's mnemonic, of a phoneme; pauses start with an underscore.
    """

    kind: int
    position: int
    sample: int
    phoneme: str = ""


@dataclass(frozen=True)
class Speech:
    """What espeak-ng spoke: (samples,) float32 in -1 to 1, their rate, and events in order."""

    samples: np.ndarray
    rate_hz: int
    events: tuple[Event, ...]


class Espeak:
    """espeak-ng in this process.

    Raises:
        ImportError: when the extra `demo` is not installed.
        RuntimeError: when espeak-ng refuses to start.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise ImportError("this needs espeak-ng: pip install 'otreg[demo]'") from error
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self._library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self._rate_hz = self._library.espeak_Initialize(
            _SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), _PHONEME_EVENTS
        )
        if self._rate_hz <= 0:
            raise RuntimeError(f"espeak-ng did not start (code {self._rate_hz})")
        self._chunks: list[np.ndarray] = []
        self._events: list[Event] = []
        self._callback = _CALLBACK(self._receive)  # kept: ctypes does not hold a reference
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        for event in events:  # a pointer: it goes on until told to stop
            if event.type == _END_OF_LIST:
                break
            if event.type in (WORD, PHONEME):
                name = event.id.string.decode() if event.type == PHONEME else ""
                self._events.append(Event(event.type, event.text_position - 1, event.sample, name))
        return 0

    def speak(
        self, ssml: str, voice: str, *, rate_wpm: int, pitch: int, pitch_range: int, seed: int
    ) -> Speech:
        """Speak SSML.

        Args:
            ssml: text between ``<speak>`` and ``</speak>``.
            voice: espeak-ng's name, such as "en-us+m3".
            rate_wpm: speaking rate in words per minute (160 is normal).
            pitch: 0 to 99.
            pitch_range: 0 to 99.
            seed: of the noise of breathy voices.

        Raises:
            ValueError: for an unknown voice.
            RuntimeError: when espeak-ng speaks nothing.
        """
        self.set_voice(voice)
        for parameter, value in ((_RATE, rate_wpm), (_PITCH, pitch), (_RANGE, pitch_range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        # Breathy voices draw their noise from espeak-ng's own generator, which the clock seeds.
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        data = ssml.encode()
        self._chunks, self._events = [], []
        code = self._library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _UTF8 | _SSML, None, None)
        if code != 0 or not self._chunks:
            raise RuntimeError(f"espeak-ng could not speak {ssml!r} (code {code})")
        samples = np.concatenate(self._chunks).astype(np.float32) / 32768.0
        return Speech(samples, self._rate_hz, tuple(self._events))

    def set_voice(self, voice: str) -> None:
        """Choose the voice or language of what follows; a ValueError for an unknown one."""
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}")

    def phonemes(self, text: str) -> list[str]:
        """Spell text in IPA, in the voice that was last chosen; see `phonemes`."""
        rest = ctypes.c_char_p(text.encode())
        symbols: list[str] = []
        while rest.value:  # one clause a call
            clause = self._library.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, _IPA_SEPARATED)
            symbols += (clause or b"").decode().replace(" ", "_").split("_")
        symbols = [re.sub(r"[ˈˌ]|\([a-z-]+\)", "", symbol) for symbol in symbols]
        return [symbol for symbol in symbols if symbol]


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
    espeak = Espeak()
    spelled = []
    for text, language in zip(texts, languages, strict=True):
        try:
            espeak.set_voice(language)
        except ValueError as error:
            raise ValueError(f"espeak-ng does not speak the language {language!r}") from error
        spelled.append(espeak.phonemes(text))
    return spelled
