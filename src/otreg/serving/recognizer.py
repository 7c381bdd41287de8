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

    `pieces` and `delta` are the two places where long recordings are to be cut and joined; nothing
    else in the server knows how many pieces a recording has.

    Args:
        model: what `otreg.model.generation.transcribe` takes.
        processor: the model's.
        max_new_tokens: most tokens of a piece's transcript.
        max_duration_s: longest recording that is accepted, in seconds.
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

    def delta(self, so_far: str, text: str, language: str) -> str:
        """What a piece's transcript adds to those before it: they join to the recording's."""
        if not so_far or not text or is_character_language(language):
            return text
        return f" {text}"


def _encoder_limit_s(processor: Any) -> float:
    """Seconds that the encoder takes at once; infinite where it has no fixed length."""
    extractor = getattr(processor, "feature_extractor", None)
    if extractor is None or not is_whisper(extractor):
        return float("inf")
    return float(extractor.n_samples / SAMPLE_RATE_HZ)
