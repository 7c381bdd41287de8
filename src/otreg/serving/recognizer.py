"""A recording as pieces that the model takes, and the pieces' transcripts as the recording's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otreg.data.audio import SAMPLE_RATE_HZ, audio_info
from otreg.data.utterance import Utterance
from otreg.languages import is_character_language
from otreg.model.features import is_whisper
from otreg.model.generation import Transcription, transcribe
from otreg.serving.formats import Segment


@dataclass(frozen=True)
class Piece:
    """What the model hears at once.

    Args:
        utterance: where it is; its id is unique in the server.
        start_s: where it starts in the recording, in seconds.
        duration_s: how long it is.
    """

    utterance: Utterance
    start_s: float
    duration_s: float


class Recognizer:
    """A model that transcribes recordings piece by piece.

    `pieces` is where long recordings are to be cut, `Joiner` where they are joined; nothing else in the
    server minds how many pieces a recording has.

    Args:
        model: what `otreg.model.generation.transcribe` takes.
        processor: the model's.
        max_new_tokens: most tokens of a piece's transcript.
        max_duration_s: longest recording that is accepted, in seconds; where the encoder takes less at
            once, that.
    """

    def __init__(
        self, model: Any, processor: Any, *, max_new_tokens: int, max_duration_s: float
    ) -> None:
        self.model = model
        self.processor = processor
        self.max_new_tokens = max_new_tokens
        self.max_duration_s = min(max_duration_s, _encoder_limit_s(processor))

    def pieces(self, recording: Utterance, folder: Path) -> list[Piece]:
        """Cut a recording; its header is checked, nothing is decoded.

        Args:
            recording: what was uploaded.
            folder: for files that the pieces need; it is removed when all of them are done.

        Raises:
            AudioError: for audio that cannot be used, or that is longer than the limit.
        """
        info = audio_info(recording, max_duration_s=self.max_duration_s)
        return [Piece(recording, 0.0, info.duration_s)]

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


class Joiner:
    """Puts the transcripts of a recording's pieces together, in their order.

    Args:
        pieces: all of the recording.
        language: code; languages that write words together are joined without spaces.

    Attributes:
        segments: of the pieces so far.
        text: of the recording so far; what `add` returned, one after the other.
    """

    def __init__(self, pieces: Sequence[Piece], language: str) -> None:
        self.segments: list[Segment] = []
        self.text = ""
        self._pieces = list(pieces)
        self._space = "" if is_character_language(language) else " "

    def add(self, transcription: Transcription) -> str:
        """Take the next piece's transcript; return what it adds to the text."""
        piece = self._pieces[len(self.segments)]
        said = transcription.hypothesis
        end_s = piece.start_s + piece.duration_s
        self.segments.append(Segment(piece.start_s, end_s, said, transcription.hit_limit))
        delta = f"{self._space}{said}" if self.text and said else said
        self.text += delta
        return delta

    @property
    def hit_limit(self) -> bool:
        """Whether decoding stopped at the limit of tokens somewhere, so that words may be missing."""
        return any(segment.hit_limit for segment in self.segments)


def _encoder_limit_s(processor: Any) -> float:
    """Seconds that the encoder takes at once; infinite where it has no fixed length."""
    extractor = getattr(processor, "feature_extractor", None)
    if extractor is None or not is_whisper(extractor):
        return float("inf")
    return float(extractor.n_samples / SAMPLE_RATE_HZ)
