"""The training data of a run where it is a stream."""

from __future__ import annotations

from typing import Any

from otreg.data import SpeechTextStream, open_stream
from otreg.training.config import RunConfig

__all__ = ["training_stream"]


def training_stream(config: RunConfig, processor: Any) -> SpeechTextStream:
    """Pass after pass of the stream that data.train names, for training by steps.

    Args:
        config: of the run; its data.train is one stream.
        processor: makes the features.

    Raises:
        ManifestError: it cannot be read.
    """
    return SpeechTextStream(
        open_stream(config.data.train[0], root=config.data.root),
        processor,
        interleaving=config.data.interleaving(),
        shuffle_buffer=config.data.shuffle_buffer,
        seed=config.seed,
        repeat=True,
    )
