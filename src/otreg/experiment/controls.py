"""Controls: objectives that look right and must not work."""

from __future__ import annotations

import dataclasses
from typing import Any

from otreg.objectives import AlignmentOutput, OTReg
from otreg.pair import SpeechTextPair


class ShuffledTranscripts:
    """Transport each utterance to the transcript of another of its batch.

    What an objective gains with these was never in the transcript. In a batch of one there is no
    other, and the loss is that of the utterance's own transcript.

    Args:
        options: those of `OTReg`, whose loss must not need the vocabulary.
    """

    def __init__(self, **options: Any) -> None:
        self.objective = OTReg(**options)
        self.needs_vocabulary = self.objective.needs_vocabulary

    def __call__(self, pair: SpeechTextPair) -> AlignmentOutput:
        """The objective's losses against the next entry's transcript."""
        assert pair.text_mask is not None
        ids = None if pair.token_ids is None else pair.token_ids.roll(1, 0)
        return self.objective(
            dataclasses.replace(
                pair, text=pair.text.roll(1, 0), text_mask=pair.text_mask.roll(1, 0), token_ids=ids
            )
        )
