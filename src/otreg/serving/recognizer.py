"""A model that transcribes recordings of any length, piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otreg.data.audio import audio_info
from otreg.data.utterance import Utterance
from otreg.model.generation import Transcription, transcribe
from otreg.transcription import Chunk, Options, cut


@dataclass(frozen=True)
class Piece:
    """What the model hears at once.

    Args:
        utterance: where it is; its id is unique in the server.
        chunk: its place in the recording.
    """

    utterance: Utterance
    chunk: Chunk

    @property
    def duration_s(self) -> float:
        """How long it is, in seconds."""
        return self.chunk.end_s - self.chunk.start_s


class Recognizer:
    """A model that transcribes recordings piece by piece.

    Args:
        model: what `otreg.model.generation.transcribe` takes.
        processor: the model's.
        max_new_tokens: most tokens of a piece's transcript.
        max_duration_s: longest recording that is accepted, in seconds.
        options: how recordings are cut; None = the defaults of `Options`.

    Raises:
        ValueError: chunks longer than the model takes.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        max_new_tokens: int,
        max_duration_s: float,
        options: Options | None = None,
    ) -> None:
        self.model = model
        self.processor = processor
        self.max_new_tokens = max_new_tokens
        self.max_duration_s = max_duration_s
        self.options = options or Options()
        self._lengths_s = self.options.lengths_s(processor)

    def pieces(self, recording: Utterance, folder: Path) -> list[Piece]:
        """Cut a recording; one that is short enough is checked by its header and not decoded.

        Args:
            recording: what was uploaded.
            folder: for files that the pieces need; it is removed when all of them are done.

        Raises:
            AudioError: for audio that cannot be used, or that is longer than the limit.
        """
        info = audio_info(recording, max_duration_s=self.max_duration_s)
        parts = cut(recording, info.duration_s, self.options, self._lengths_s, folder)
        return [Piece(utterance, chunk) for chunk, utterance in parts]

    def transcribe(self, utterances: Sequence[Utterance]) -> list[Transcription]:
        """Decode as one batch, in order.

        Raises:
            AudioError: for audio that cannot be decoded in full.
        """
        return transcribe(
            self.model,
            self.processor,
            list(utterances),
            batch_size=len(utterances),
            max_new_tokens=self.max_new_tokens,
        )
