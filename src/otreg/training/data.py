"""The training data of a run: augmentation, and streams."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from otreg.data import MAX_DURATION_S, SpeechTextDataset, SpeechTextStream, open_stream
from otreg.data.augment import Augmentation, FeatureMasks
from otreg.data.sources import read_sources
from otreg.training.config import RunConfig
from otreg.training.long_audio import fit_long_audio

__all__ = ["enter_stage_data", "training_augmentation", "training_stream"]


def training_augmentation(config: RunConfig) -> Augmentation | None:
    """What data.augment does to the speech; None without it.

    Args:
        config: of the run.

    Raises:
        ManifestError: noise or impulse responses that cannot be read.
        ValueError: numbers out of range.
    """
    given = config.data.augment
    if given is None:
        return None
    masks = None
    if given.time_masks or given.band_masks:
        masks = FeatureMasks(
            time_masks=given.time_masks,
            time_mask_frames=given.time_mask_frames,
            band_masks=given.band_masks,
            band_mask_size=given.band_mask_size,
        )
    root = config.data.root
    return Augmentation(
        seed=config.seed if given.seed is None else given.seed,
        speeds=tuple(given.speeds),
        noise=read_sources(given.noise, root=root) if given.noise else (),
        noise_probability=given.noise_probability,
        noise_snr_db=(given.noise_snr_db[0], given.noise_snr_db[1]),
        reverberation=read_sources(given.reverberation, root=root) if given.reverberation else (),
        reverberation_probability=given.reverberation_probability,
        masks=masks,
    )


def training_stream(config: RunConfig, processor: Any) -> SpeechTextStream:
    """Pass after pass of the stream that data.train names, for training by steps.

    Args:
        config: of the run; its data.train is one stream.
        processor: makes the features.

    Raises:
        ManifestError: it cannot be read.
        ConfigError: data.max_clip_s above what the encoder takes.
    """
    fit_long_audio((), config.data, processor)
    return SpeechTextStream(
        open_stream(config.data.train[0], root=config.data.root),
        processor,
        max_duration_s=config.data.max_clip_s or MAX_DURATION_S,
        interleaving=config.data.interleaving(),
        shuffle_buffer=config.data.shuffle_buffer,
        seed=config.seed,
        repeat=True,
        augmentation=training_augmentation(config),
    )


def enter_stage_data(
    train_set: SpeechTextDataset | SpeechTextStream, config: RunConfig, seed: int
) -> None:
    """Let a stage draw the rows of a stream, and its augmentation, in its own way.

    Args:
        train_set: changed in place, before the stage's trainer is made.
        config: of the run; its data.augment.seed, where given, holds in every stage.
        seed: the stage's.
    """
    if isinstance(train_set, SpeechTextStream):
        train_set.seed = seed
    given = config.data.augment
    if train_set.augmentation is not None and given is not None and given.seed is None:
        train_set.augmentation = replace(train_set.augmentation, seed=seed)
