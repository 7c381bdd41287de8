"""The `model` and `data` of a run's configuration."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, Strict
from pydantic.dataclasses import dataclass

from otreg.data.interleave import Interleaving
from otreg.training.field_types import Count, Flag, Fraction, Name, NonNegative, Number, Paths

STAGE_MODEL_KEYS = (
    "snap",
    "snap_temperature",
    "merge_threshold",
    "drop_threshold",
    "drop_temperature",
)
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
        init: a run folder or a saved speech language model to go on from; towers and adapter are
            then its own.
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
        prompt_template, separator, instruction: the prompt, see `SpeechLMProcessor`.
        lora: low-rank updates of the language model.
        snap, snap_temperature, merge_threshold, drop_threshold, drop_temperature: compression and
            snap from the first stage on; a stage's own `model` changes them from that stage on.
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
class DataConfig:
    """What the run reads.

    Args:
        train: manifests (JSONL) to train on.
        validation: manifests for the loss on held-out speech, at the end of every stage.
        root: folder that the audio paths of all manifests start from and stay in; None = each
            manifest's own folder.
        cache_encoder: encode every utterance once and keep the frozen encoder's outputs on disk.
        cache_dir: where to keep them, to share between runs of one encoder; None = in the run
            folder.
        cache_batch_size: clips encoded at a time for the cache.
        interleave: cut every utterance into written and spoken spans; its manifest needs `words`.
        long_audio: what becomes of recordings that are longer than max_clip_s: `refuse` stops the
            run before it trains, `split` cuts them between their `words`.
        max_clip_s: longest recording that is trained on; None = what the encoder takes.
    """

    train: Paths = dataclasses.field(default_factory=list)
    validation: Paths = dataclasses.field(default_factory=list)
    root: Path | None = None
    cache_encoder: Flag = False
    cache_dir: Path | None = None
    cache_batch_size: Count = 16
    interleave: InterleaveConfig | None = None
    long_audio: Literal["refuse", "split"] = "refuse"
    max_clip_s: Annotated[Number, Field(gt=0)] | None = None

    def __post_init__(self) -> None:
        if self.long_audio == "split" and self.interleave is not None:
            raise ValueError(
                "data.long_audio=split cuts recordings between their words, as data.interleave does: "
                "drop one of the two"
            )

    def interleaving(self) -> Interleaving | None:
        """What cuts utterances into documents, None where rows stay as they are."""
        if self.interleave is None:
            return None
        text, speech = self.interleave.text_words, self.interleave.speech_words
        return Interleaving((text[0], text[1]), (speech[0], speech[1]), self.interleave.seed)
