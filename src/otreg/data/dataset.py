"""Utterances to model inputs, one at a time: a map-style dataset."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

import numpy as np
import torch
from torch.utils.data import Dataset

from otreg.data.audio import MAX_DURATION_S, SAMPLE_RATE_HZ, AudioError, audio_info, load_audio
from otreg.data.manifest import ManifestError, Utterance, check_unique_ids, read_manifests

if TYPE_CHECKING:
    from otreg.data.encoder_cache import EncoderCache


class Processor(Protocol):
    """What the data section asks of a processor; `otreg.model.SpeechLMProcessor` is one."""

    pad_token_id: int

    def features(self, samples: np.ndarray) -> np.ndarray:
        """Turn samples at 16 kHz into (frames, mels) or (samples,), without padding."""

    def num_speech_frames(self, feature_length: int) -> int:
        """Return the placeholders in the prompt for features of this length."""

    def num_speech_frames_from_encoder(self, encoder_frames: int) -> int:
        """Return the placeholders in the prompt for encoder outputs of this length."""

    def tokenize_example(
        self, num_speech_frames: int, text: str | None, language: str | None = None
    ) -> dict[str, Any]:
        """Return input_ids, labels and text_ids as lists (the last two None without a text)."""


class Example(TypedDict, total=False):
    """One item of a `SpeechTextDataset`; it has one of the last two keys."""

    id: str
    text: str
    language: str
    speaker: str | None
    duration_s: float
    input_features: np.ndarray  # (frames, mels) or (samples,)
    encoder_hidden_states: torch.Tensor  # (encoder frames, dim)


class SpeechTextDataset(Dataset[Example]):
    """Speech and transcripts of some manifests, decoded when asked for.

    An item is a dict of the utterance's id, text, language, speaker, duration_s and either
    input_features or, with an encoder cache, encoder_hidden_states.

    Args:
        data: manifests (paths), or utterances.
        processor: makes the features, see `Processor`.
        encoder_cache: outputs of the frozen encoder for all utterances, from
            `build_encoder_cache`; the audio is then not decoded.
        max_duration_s: longest utterance that is accepted, in seconds.

    Raises:
        ManifestError: for a bad manifest, ids used twice, or no utterance at all.
        StaleCacheError: when the cache lacks an utterance or its audio has changed.

    """

    def __init__(
        self,
        data: str | Path | Sequence[str | Path] | Sequence[Utterance],
        processor: Processor,
        *,
        encoder_cache: EncoderCache | None = None,
        max_duration_s: float = MAX_DURATION_S,
    ) -> None:
        self.utterances = as_utterances(data)
        self.processor = processor
        self.encoder_cache = encoder_cache
        self.max_duration_s = max_duration_s
        self._feature_lengths: dict[int, int] = {}
        if encoder_cache is not None:
            encoder_cache.check(self.utterances)

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: int) -> Example:
        """Load one item.

        Raises:
            AudioError: naming file and manifest line, for audio that cannot be used.

        """
        utterance = self.utterances[index]
        example: Example = {
            "id": utterance.id,
            "text": utterance.text,
            "language": utterance.language,
            "speaker": utterance.speaker,
            "duration_s": 0.0,
        }
        if self.encoder_cache is not None:
            states, duration_s = self.encoder_cache.get(utterance)
            example["encoder_hidden_states"] = states
            example["duration_s"] = duration_s
            return example
        samples = load_audio(utterance, max_duration_s=self.max_duration_s)
        try:
            features = self.processor.features(samples)
        except ValueError as error:  # such as: longer than the encoder can take
            raise AudioError(f"{utterance.name}: audio file {utterance.audio}: {error}") from error
        self._check_frames(utterance, self.processor.num_speech_frames(len(features)))
        example["input_features"] = features
        example["duration_s"] = len(samples) / SAMPLE_RATE_HZ
        return example

    def durations_s(self) -> list[float]:
        """Return the length of every utterance in seconds, from headers; checks every file."""
        return [
            audio_info(utterance, max_duration_s=self.max_duration_s).duration_s
            for utterance in self.utterances
        ]

    def lengths(self) -> list[int]:
        """Return the tokens of every item (prompt, speech frames, transcript), for a sampler.

        Reads audio headers (or the cache's index), decodes nothing. A processor without
        `feature_length(num_samples)` computes the features of silence, once for each length.
        """
        lengths = []
        for utterance in self.utterances:
            if self.encoder_cache is not None:
                frames = self.processor.num_speech_frames_from_encoder(
                    self.encoder_cache.num_frames(utterance)
                )
            else:
                info = audio_info(utterance, max_duration_s=self.max_duration_s)
                feature_length = self._feature_length(info.num_samples)
                frames = self.processor.num_speech_frames(feature_length)
            self._check_frames(utterance, frames)
            example = self.processor.tokenize_example(
                frames, utterance.text or None, utterance.language or None
            )
            lengths.append(len(example["input_ids"]))
        return lengths

    def _feature_length(self, num_samples: int) -> int:
        if num_samples not in self._feature_lengths:
            count = getattr(self.processor, "feature_length", None)
            self._feature_lengths[num_samples] = (
                len(self.processor.features(np.zeros(num_samples, dtype=np.float32)))
                if count is None
                else int(count(num_samples))
            )
        return self._feature_lengths[num_samples]

    def _check_frames(self, utterance: Utterance, num_speech_frames: int) -> None:
        if num_speech_frames < 1:
            raise AudioError(
                f"{utterance.name}: audio file {utterance.audio} is too short: the encoder and "
                "adapter make no speech frame of it; remove it or lengthen its segment"
            )


def as_utterances(
    data: str | Path | Iterable[str | Path] | Iterable[Utterance],
) -> list[Utterance]:
    """Read manifests where paths are given; check that ids are unique and something is there."""
    if isinstance(data, (str, Path)):
        return read_manifests(data)
    items: list[Any] = list(data)
    if all(isinstance(item, Utterance) for item in items):
        if not items:
            raise ManifestError("no utterance was given; expected at least one")
        check_unique_ids(items)
        return items
    if any(isinstance(item, Utterance) for item in items):
        raise ManifestError("expected manifests or utterances, received a mixture of both")
    return read_manifests(items)
