"""Recordings that are too long to train on: refused before the run trains, or split by their words."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from otreg.data.audio import MAX_DURATION_S, audio_info
from otreg.data.segments import row_of
from otreg.data.splitting import CannotSplitError, cut, word_pieces
from otreg.data.utterance import Utterance
from otreg.model.features import longest_audio_s
from otreg.training.sections import DataConfig
from otreg.training.yaml_config import ConfigError

__all__ = ["fit_long_audio"]

logger = logging.getLogger(__name__)


def fit_long_audio(
    utterances: Sequence[Utterance], data: DataConfig, processor: Any, *, stretch: float = 1.0
) -> list[Utterance]:
    """Apply a run's `data.long_audio` to the rows of its manifests.

    Reads headers only. Where the encoder takes any length and data.max_clip_s is not given, or where
    all audio is encoded before training anyway, nothing is read under "refuse".

    Args:
        utterances: the rows.
        data: the run's.
        processor: the model's; its feature extractor says how long audio may be.
        stretch: the most by which augmentation makes a clip longer (`Augmentation.longest`); what
            the encoder takes is divided by it.

    Returns:
        The rows, long ones in pieces.

    Raises:
        ConfigError: max_clip_s above what the encoder takes.
        AudioError: audio that cannot be used.
        ValueError: a recording that is too long, under "refuse", or that cannot be split.
    """
    encoder_s = longest_audio_s(processor)
    limit_s = MAX_DURATION_S if encoder_s is None else encoder_s
    if data.max_clip_s is not None and data.max_clip_s > limit_s:
        raise ConfigError(
            f"data.max_clip_s is {data.max_clip_s:g}, but "
            f"{'this encoder' if encoder_s is not None else 'otreg'} takes at most {limit_s:g} s; "
            "lower it"
        )
    max_s, whose = data.max_clip_s or limit_s, "what this encoder takes"
    if data.max_clip_s is not None:
        whose = "data.max_clip_s"
    if encoder_s is not None and encoder_s / stretch < max_s:
        max_s = encoder_s / stretch
        whose = f"what this encoder takes, {encoder_s:g} s, at the slowest of data.augment.speeds"
    if data.long_audio == "split":
        return _split(utterances, max_s)
    if data.max_clip_s is not None or (encoder_s is not None and not data.cache_encoder):
        _refuse(utterances, data, max_s, whose)
    return list(utterances)


def _split(utterances: Sequence[Utterance], max_s: float) -> list[Utterance]:
    rows: list[Utterance] = []
    num_split = 0
    for utterance in utterances:
        try:
            pieces = word_pieces(utterance, max_s)
        except CannotSplitError as error:
            raise ValueError(f"{utterance.name}: {error}") from error
        num_split += bool(pieces)
        rows += cut(utterance, pieces)
    if num_split:
        logger.info(
            "%d recordings of more than %g s were split: %d rows became %d",
            num_split,
            max_s,
            len(utterances),
            len(rows),
        )
    return rows


def _refuse(utterances: Sequence[Utterance], data: DataConfig, max_s: float, whose: str) -> None:
    """Raise for the first clip that is too long, with the number of all."""
    rows = map(data.interleaving() or row_of, utterances)
    long = []
    for clip in (clip for row in rows for clip in row.clips):
        duration_s = audio_info(clip, max_duration_s=float("inf")).duration_s
        if duration_s > max_s:
            long.append((clip, duration_s))
    if long:
        clip, duration_s = long[0]
        others = f" (and {len(long) - 1} more are too long)" if len(long) > 1 else ""
        raise ValueError(
            f"{clip.name}: audio file {clip.audio} lasts {duration_s:.2f} s, above {max_s:g} s, "
            f"{whose}{others}; split it between its words: data.long_audio=split, or `otreg prepare "
            "split`"
        )
