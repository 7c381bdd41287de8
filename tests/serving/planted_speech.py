"""A recogniser without a model: what it says is planted, and it decodes when the test lets it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from otreg.data.audio import AudioError, audio_info
from otreg.data.utterance import Utterance
from otreg.model.generation import Transcription
from otreg.serving.recognizer import Piece
from otreg.transcription import Chunk

TIMEOUT_S = 20.0


class Planted:
    """Cuts recordings into pieces of a second; piece n of any recording says "n" in words.

    Attributes:
        batches: the ids of each batch that was begun.
        gate: batches wait for it; open at first.
        free: how many batches do not wait for it.
        began: set when a batch begins.
    """

    def __init__(
        self,
        *,
        fails: Callable[[str], Exception | None] = lambda text: None,
        hit_limit: bool = False,
        words: Sequence[str] = ("one", "two", "three", "four", "five"),
    ) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.free = 0
        self.began = threading.Event()
        self.fails = fails
        self.hit_limit = hit_limit
        self.words = words

    def __call__(self) -> Planted:
        """Be loaded."""
        return self

    def pieces(self, recording: Utterance, folder: Path) -> list[Piece]:
        duration_s = audio_info(recording).duration_s
        made = []
        for number in range(max(1, round(duration_s))):
            end_s = min(duration_s, number + 1.0)
            part = Utterance(f"{recording.id}.{number}", recording.audio, self.words[number])
            made.append(Piece(part, Chunk(float(number), end_s, "silence")))
        return made

    def transcribe(self, utterances: Sequence[Utterance]) -> list[Transcription]:
        self.batches.append([utterance.id for utterance in utterances])
        self.began.set()
        assert len(self.batches) <= self.free or self.gate.wait(TIMEOUT_S)
        for utterance in utterances:
            if error := self.fails(utterance.text):
                raise error
            if not utterance.audio.is_file():
                raise AudioError(f"{utterance.audio} is gone")
        return [Transcription(u.id, "", u.text, self.hit_limit) for u in utterances]
