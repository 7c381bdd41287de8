"""The `model`, `data` and `watch` of a run's configuration."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, Strict
from pydantic.dataclasses import dataclass

from otreg.data.interleave import Interleaving
from otreg.data.sources import is_stream
from otreg.training.field_types import (
    Count,
    Flag,
    Fraction,
    Name,
    NonNegative,
    Number,
    Sources,
    Trackers,
)

STAGE_MODEL_KEYS = (
    "snap",
    "snap_temperature",
    "merge_threshold",
    "drop_threshold",
    "drop_temperature",
)
OF_A_LOADED_MODEL = (
    "init",
    "lora",
    "dtype",
    "trust_remote_code",
    "instruction",
    "request_options",
)
"""What a model that `init` names can be given; the rest of it is fixed."""

frozen = dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))


@frozen
class LoraConfig:
    """Low-rank updates of the language model (peft); they train in stages that list `lora`.

    Args:
        r: rank.
        alpha: scale; the update is multiplied by alpha / r.
        dropout: on the update's input.
        target_modules: names of linear layers; None = the attention projections of the language
            model.
    """

    r: Count = 8
    alpha: NonNegative = 16.0
    dropout: Fraction = 0.0
    target_modules: list[Name] | None = None


@frozen
class ModelConfig:
    """What the run starts from. None everywhere else = the model's own default (`SpeechLMConfig`).

    Args:
        init: a run folder, a saved speech language model or a Hub id, of otreg or of any family that
            `otreg.attach` reads, to go on from; towers and adapter are then its own.
        trust_remote_code: run code that comes with the checkpoint of `init`.
        request_options: of a model of others: what its processor's transcription request takes, such
            as {language: English}; `instruction` is then what the user asks beside the audio.
        audio_tower: folder or Hub id of a speech encoder.
        language_model: folder or Hub id of a causal language model.
        adapter_type: `stack_mlp` or `conv`.
        adapter_stack: encoder frames that become one speech embedding.
        adapter_hidden_size: width inside the adapter.
        adapter_layers: hidden layers of `stack_mlp`, blocks of `conv`.
        adapter_kernel: frames under a kernel of the convolutional adapter.
        adapter_ffn_ratio: of the convolutional adapter.
        adapter_dropout: inside the adapter.
        short_mel: Whisper only: encode the true length instead of 30 s.
        prompt_template: of the prompt, see `SpeechLMProcessor`.
        separator: between speech and transcript in the prompt.
        instruction: what the prompt asks for.
        lora: low-rank updates of the language model.
        snap: from the first stage on; a stage's own `model` changes it and the next four.
        snap_temperature: as in `SpeechLMConfig`.
        merge_threshold: of compression.
        drop_threshold: of compression.
        drop_temperature: of compression in training.
        dtype: of the towers' weights, such as `bfloat16`; adapter and LoRA train in float32.
    """

    init: str | None = None
    audio_tower: str | None = None
    language_model: str | None = None
    adapter_type: str | None = None
    adapter_stack: Count | None = None
    adapter_hidden_size: Count | None = None
    adapter_layers: Annotated[int, Strict(), Field(ge=0)] | None = None
    adapter_kernel: Count | None = None
    adapter_ffn_ratio: Annotated[Number, Field(gt=0)] | None = None
    adapter_dropout: Fraction | None = None
    short_mel: Flag | None = None
    prompt_template: str | None = None
    separator: str | None = None
    instruction: str | None = None
    lora: LoraConfig | None = None
    snap: Fraction | None = None
    snap_temperature: NonNegative | None = None
    merge_threshold: Number | None = None
    drop_threshold: Number | None = None
    drop_temperature: NonNegative | None = None
    dtype: str | None = None
    trust_remote_code: Flag = False
    request_options: dict[Name, Any] | None = None


Span = Annotated[list[Count], Field(min_length=2, max_length=2)]


@frozen
class InterleaveConfig:
    """Every utterance becomes a document of written and spoken spans (`otreg.data.interleave`).

    Args:
        text_words: fewest and most words of a written span.
        speech_words: fewest and most words of a spoken span.
        seed: of the cuts.
    """

    text_words: Span = dataclasses.field(default_factory=lambda: [10, 30])
    speech_words: Span = dataclasses.field(default_factory=lambda: [5, 15])
    seed: Annotated[int, Strict(), Field(ge=0)] = 0


@frozen
class AugmentConfig:
    """Speech that changes from epoch to epoch, in training alone (`otreg.data.augment`).

    Args:
        speeds: factors of which one is drawn for every clip, such as [0.9, 1, 1.1].
        noise: manifests (or mappings) of noise, a piece of which is added.
        noise_probability: share of the clips that get some.
        noise_snr_db: lowest and highest ratio of speech to noise, in decibels.
        reverberation: manifests (or mappings) of recorded impulse responses.
        reverberation_probability: share of the clips that get one.
        time_masks: stretches of masked frames.
        time_mask_frames: the longest of them.
        band_masks: stretches of masked mel bands.
        band_mask_size: the widest of them.
        seed: of all that is drawn, in every stage; None = the stage's, which follows from the run's.
    """

    speeds: list[Annotated[Number, Field(ge=0.5, le=2)]] = dataclasses.field(default_factory=list)
    noise: Sources = dataclasses.field(default_factory=list)
    noise_probability: Fraction = 0.5
    noise_snr_db: Annotated[list[Number], Field(min_length=2, max_length=2)] = dataclasses.field(
        default_factory=lambda: [10.0, 30.0]
    )
    reverberation: Sources = dataclasses.field(default_factory=list)
    reverberation_probability: Fraction = 0.5
    time_masks: Annotated[int, Strict(), Field(ge=0)] = 0
    time_mask_frames: Count = 100
    band_masks: Annotated[int, Strict(), Field(ge=0)] = 0
    band_mask_size: Count = 27
    seed: Annotated[int, Strict(), Field(ge=0)] | None = None


@frozen
class DataConfig:
    """What the run reads.

    Args:
        train: what to train on: manifests (JSONL), or mappings that name data of other kinds, see
            docs/data.md.
        validation: the same for the loss on held-out speech, at the end of every stage.
        root: folder that the audio paths of all manifests start from and stay in; None = each
            manifest's own folder.
        shuffle_buffer: of a stream, utterances among which the next is drawn; 0 = in its order.
        cache_encoder: encode every utterance once and keep the frozen encoder's outputs on disk.
        cache_dir: where to keep them, to share between runs of one encoder; None = in the run
            folder.
        cache_batch_size: clips encoded at a time for the cache.
        interleave: cut every utterance into written and spoken spans; its manifest needs `words`.
        long_audio: what becomes of recordings that are longer than max_clip_s: `refuse` stops the
            run before it trains, `split` cuts them between their `words`.
        max_clip_s: longest recording that is trained on; None = what the encoder takes. A stream is
            refused where it reaches a longer one.
        augment: change the speech from epoch to epoch.
    """

    train: Sources = dataclasses.field(default_factory=list)
    validation: Sources = dataclasses.field(default_factory=list)
    root: Path | None = None
    shuffle_buffer: Annotated[int, Strict(), Field(ge=0)] = 1000
    cache_encoder: Flag = False
    cache_dir: Path | None = None
    cache_batch_size: Count = 16
    interleave: InterleaveConfig | None = None
    long_audio: Literal["refuse", "split"] = "refuse"
    max_clip_s: Annotated[Number, Field(gt=0)] | None = None
    augment: AugmentConfig | None = None

    def __post_init__(self) -> None:
        if self.long_audio == "split" and self.interleave is not None:
            raise ValueError(
                "data.long_audio=split cuts recordings between their words, as data.interleave does: "
                "drop one of the two"
            )
        if self.augment is not None and self.cache_encoder:
            raise ValueError(
                "augment changes the speech, but cache_encoder keeps it as it is: drop one of the two"
            )
        if any(map(is_stream, self.validation)):
            raise ValueError("validation needs all rows at once: drop streaming: true there")
        if self.streams and len(self.train) > 1:
            raise ValueError("a stream in train stands alone: give one source, or drop streaming")
        if self.streams and self.cache_encoder:
            raise ValueError("cache_encoder needs all rows at once: drop it, or streaming: true")
        if self.streams and self.long_audio == "split":
            raise ValueError(
                "data.long_audio=split needs all rows at once: drop it, or streaming: true; or split "
                "the data beforehand with `otreg prepare split`"
            )

    @property
    def streams(self) -> bool:
        """Whether the training data is a stream."""
        return any(map(is_stream, self.train))

    def interleaving(self) -> Interleaving | None:
        """What cuts utterances into documents, None where rows stay as they are."""
        if self.interleave is None:
            return None
        text, speech = self.interleave.text_words, self.interleave.speech_words
        return Interleaving((text[0], text[1]), (speech[0], speech[1]), self.interleave.seed)


@frozen
class WatchConfig:
    """Watching a run while it trains. It changes nothing of what is trained, not by a bit.

    Args:
        to: where log entries, measures and pictures go beside the run folder: `tensorboard`,
            `wandb`, both, or none (an empty list). Each is an extra of that name.
        every: optimiser steps between measures; a stage's first and last moment are measured, too.
        gap: measure the gap between speech and text (`otreg.evaluation.measures`).
        plan: draw the transport plan of one clip.
        rows: rows that the gap is measured on, evenly spaced: of data.validation, or else of
            data.train.
    """

    to: Trackers = dataclasses.field(default_factory=lambda: ["tensorboard"])
    every: Count = 500
    gap: Flag = True
    plan: Flag = True
    rows: Count = 32
