"""What one row of a manifest is: an `Utterance`, its words, and what all audio spans have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from otreg.data.audio_bytes import Audio


class ManifestError(ValueError):
    """A manifest, or one line of it, that cannot be used; the message names file and line."""


class AudioSpan(Protocol):
    """A piece of an audio file: an `Utterance`, or one clip of several in a row."""

    @property
    def id(self) -> str:
        """Its name."""

    @property
    def audio(self) -> Audio | None:
        """The audio file, or where its bytes are; None in a row without speech."""

    @property
    def start_s(self) -> float | None:
        """Where it starts in the file, in seconds; None = at the file's start."""

    @property
    def end_s(self) -> float | None:
        """Where it ends in the file, in seconds; None = at the file's end."""

    @property
    def name(self) -> str:
        """How errors call it."""


@dataclass(frozen=True)
class Word:
    """One word of a transcript and when it is said.

    Args:
        word: the word as the transcript writes it.
        start_s: where it starts, in seconds from the start of the utterance (not of the file).
        end_s: where it ends, in seconds from the start of the utterance.

    """

    word: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Utterance:
    """One row of a manifest: a piece of speech and its transcript, or a conversation.

    The constructor checks nothing: `read_manifest` and `write_manifest` do. An utterance is
    hashable; messages, attributes and custom are compared but left out of the hash.

    Args:
        id: name of the utterance, unique among all that are used together.
        audio: audio file, absolute when it comes from `read_manifest`; `AudioBytes` where the audio
            is no file of its own; None where the row has no speech of its own.
        text: transcript of the audio; "" where it is unknown.
        language: language code such as "en", "zh" or "pt-BR"; "" where it is unknown.
        speaker: name of the speaker, or None.
        start_s: where the utterance starts in the file, in seconds; None = at the file's start.
        end_s: where it ends, in seconds; None = at the file's end.
        words: when each word is said, or None.
        messages: a conversation as Hugging Face chat messages, see `otreg.data.messages`; None
            means "transcribe".
        attributes: what is known of the speech, JSON scalars by name, or None.
        custom: anything else as JSON, never read by this package, or None.
        source: "manifest.jsonl:12", the line it was read from, quoted by errors; not compared.

    """

    id: str
    audio: Audio | None
    text: str = ""
    language: str = ""
    speaker: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    words: tuple[Word, ...] | None = None
    messages: tuple[Mapping[str, Any], ...] | None = field(default=None, hash=False)
    attributes: Mapping[str, Any] | None = field(default=None, hash=False)
    custom: Mapping[str, Any] | None = field(default=None, hash=False)
    source: str | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """How errors call this utterance: its manifest line where it has one, and its id."""
        return f"{self.source}: utterance {self.id!r}" if self.source else f"utterance {self.id!r}"
