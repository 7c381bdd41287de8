"""Manifest lines to model inputs, one at a time: a map-style dataset."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

import numpy as np
import torch
from torch.utils.data import Dataset

from otreg.data.audio import MAX_DURATION_S, SAMPLE_RATE_HZ, AudioError, audio_info, load_audio
from otreg.data.interleave import Interleaving
from otreg.data.manifest import ManifestError, Utterance, check_unique_ids, read_manifests
from otreg.data.segments import Clip, Row, Segment, row_of

if TYPE_CHECKING:
    from otreg.data.encoder_cache import EncoderCache


class Processor(Protocol):
    """What the data section asks of a processor; `otreg.model.SpeechLMProcessor` is one."""

    pad_token_id: int

    def features(self, samples: np.ndarray) -> np.ndarray:
        """Turn samples at 16 kHz into (frames, mels) or (samples,), without padding."""

    def feature_length(self, num_samples: int) -> int:
        """Return the length of `features` for that many samples, without the audio."""

    def num_speech_frames(self, feature_length: int) -> int:
        """Return the placeholders in the prompt for features of this length."""

    def num_speech_frames_from_encoder(self, encoder_frames: int) -> int:
        """Return the placeholders in the prompt for encoder outputs of this length."""

    def tokenize_row(self, row: Row, num_frames: Sequence[int]) -> dict[str, Any]:
        """Return input_ids, labels, clips (start, length) and text_ids of each clip, as lists."""


class Example(TypedDict, total=False):
    """One item of a `SpeechTextDataset`; it has one of the last two keys, a list over clips."""

    id: str
    row: Row
    text: str  # the answer: the transcript, or the last assistant turn
    language: str
    speaker: str | None
    duration_s: float  # of all clips together
    input_features: list[np.ndarray]  # (frames, mels) or (samples,) each
    encoder_hidden_states: list[torch.Tensor]  # (encoder frames, dim) each


class SpeechTextDataset(Dataset[Example]):
    """Rows of some manifests, their audio decoded when asked for.

    An item is a dict of the row's id, segments, answer, language, speaker, duration_s and, for each
    of its clips, input_features or, with an encoder cache, encoder_hidden_states.

    Args:
        data: manifests (paths), or utterances.
        processor: makes the features, see `Processor`.
        encoder_cache: outputs of the frozen encoder for all clips, from `build_encoder_cache`; the
            audio is then not decoded.
        max_duration_s: longest clip that is accepted, in seconds.
        interleaving: cuts every utterance into a document of written and spoken spans; None = rows
            as the manifest has them.
        root: folder that no audio path may leave; None = each manifest's own.

    Raises:
        ManifestError: for a bad manifest, ids used twice, or no utterance at all.
        StaleCacheError: when the cache lacks a clip or its audio has changed.

    """

    def __init__(
        self,
        data: str | Path | Sequence[str | Path] | Sequence[Utterance],
        processor: Processor,
        *,
        encoder_cache: EncoderCache | None = None,
        max_duration_s: float = MAX_DURATION_S,
        interleaving: Interleaving | None = None,
        root: str | Path | None = None,
    ) -> None:
        self.utterances = as_utterances(data, root=root)
        self.processor = processor
        self.encoder_cache = encoder_cache
        self.max_duration_s = max_duration_s
        self.interleaving = interleaving
        self.rows = [(interleaving or row_of)(utterance) for utterance in self.utterances]
        self._feature_lengths: dict[int, int] = {}
        if encoder_cache is not None:
            encoder_cache.check(self.clips())

    def __len__(self) -> int:
        return len(self.utterances)

    def clips(self) -> list[Clip]:
        """All clips of all rows, in order."""
        return [clip for row in self.rows for clip in row.clips]

    def __getitem__(self, index: int) -> Example:
        """Load one item.

        Raises:
            AudioError: naming file and manifest line, for audio that cannot be used.

        """
        return self._example(self.rows[index], self.utterances[index].speaker)

    def clip_example(self, clip: Clip) -> Example:
        """Load one clip and its transcript as an item of their own, whatever row the clip is of.

        Raises:
            AudioError: for audio that cannot be used.

        """
        spoken = Segment("audio", clip, "user")
        answer = Segment("text", clip.text, "assistant", supervised=True)
        return self._example(
            Row(clip.id, "transcribe", (spoken, answer), clip.language, clip.name), None
        )

    def _example(self, row: Row, speaker: str | None) -> Example:
        example: Example = {
            "id": row.id,
            "row": row,
            "text": row.answer,
            "language": row.language,
            "speaker": speaker,
        }
        if self.encoder_cache is not None:
            loaded = [self.encoder_cache.get(clip) for clip in row.clips]
            example["encoder_hidden_states"] = [states for states, _ in loaded]
            example["duration_s"] = sum(duration_s for _, duration_s in loaded)
        else:
            decoded = [self.load_clip(clip) for clip in row.clips]
            example["input_features"] = [features for features, _ in decoded]
            example["duration_s"] = sum(duration_s for _, duration_s in decoded)
        return example

    def load_clip(self, clip: Clip) -> tuple[np.ndarray, float]:
        """Decode one clip.

        Returns:
            Its features, (frames, mels) or (samples,), and its duration in seconds.

        Raises:
            AudioError: for audio that cannot be used.
        """
        samples = load_audio(clip, max_duration_s=self.max_duration_s)
        try:
            features = self.processor.features(samples)
        except ValueError as error:  # such as: longer than the encoder can take
            raise AudioError(f"{clip.name}: audio file {clip.audio}: {error}") from error
        _check_frames(clip, self.processor.num_speech_frames(len(features)))
        return features, len(samples) / SAMPLE_RATE_HZ

    def durations_s(self) -> list[float]:
        """Return the length of every row's clips in seconds, from headers; checks every file."""
        return [
            sum(
                audio_info(clip, max_duration_s=self.max_duration_s).duration_s
                for clip in row.clips
            )
            for row in self.rows
        ]

    def lengths(self) -> list[int]:
        """Return the tokens of every item (text and speech frames), for a sampler.

        Reads audio headers (or the cache's index), decodes nothing.
        """
        return [
            len(
                self.processor.tokenize_row(row, [self._num_frames(clip) for clip in row.clips])[
                    "input_ids"
                ]
            )
            for row in self.rows
        ]

    def _num_frames(self, clip: Clip) -> int:
        """The speech frames of a clip, without decoding it."""
        if self.encoder_cache is not None:
            encoded = self.encoder_cache.num_frames(clip)
            frames = self.processor.num_speech_frames_from_encoder(encoded)
        else:
            num_samples = audio_info(clip, max_duration_s=self.max_duration_s).num_samples
            if num_samples not in self._feature_lengths:
                try:
                    self._feature_lengths[num_samples] = self.processor.feature_length(num_samples)
                except ValueError as error:
                    raise AudioError(f"{clip.name}: audio file {clip.audio}: {error}") from error
            frames = self.processor.num_speech_frames(self._feature_lengths[num_samples])
        _check_frames(clip, frames)
        return frames


def _check_frames(clip: Clip, num_speech_frames: int) -> None:
    if num_speech_frames < 1:
        raise AudioError(
            f"{clip.name}: audio file {clip.audio} is too short: the encoder and adapter make no "
            "speech frame of it; remove it or lengthen its segment"
        )


def as_utterances(
    data: str | Path | Iterable[str | Path] | Iterable[Utterance],
    *,
    root: str | Path | None = None,
) -> list[Utterance]:
    """Read manifests where paths are given; check that ids are unique and something is there."""
    if isinstance(data, (str, Path)):
        return read_manifests(data, root=root)
    items: list[Any] = list(data)
    if all(isinstance(item, Utterance) for item in items):
        if not items:
            raise ManifestError("no utterance was given; expected at least one")
        check_unique_ids(items)
        return items
    if any(isinstance(item, Utterance) for item in items):
        raise ManifestError("expected manifests or utterances, received a mixture of both")
    return read_manifests(items, root=root)
