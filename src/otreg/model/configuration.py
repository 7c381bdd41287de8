"""Configuration of a speech language model: encoder, adapter, compression, language model."""

from __future__ import annotations

import math
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from otreg.model.frames import FramePlan, encoder_frame_plan

ADAPTER_TYPES = ("stack_mlp", "conv")
_DEFAULT_STACK = {"stack_mlp": 5, "conv": 2}
_DEFAULT_LAYERS = {"stack_mlp": 1, "conv": 3}


class SpeechLMConfig(PreTrainedConfig):
    """Configuration of `SpeechLMForConditionalGeneration`.

    Args:
        audio_config: configuration of the speech encoder (object or dict with ``model_type``).
        text_config: configuration of the causal language model (object or dict).
        adapter_type: "stack_mlp" (stack frames, then an MLP) or "conv" (stack frames, then
            convolution blocks).
        adapter_stack: encoder frames stacked into one speech frame, >= 1; default 5 for "stack_mlp"
            (the paper's), 2 for "conv".
        adapter_hidden_size: width inside the adapter; default the language model's width for
            "stack_mlp", the encoder's for "conv".
        adapter_layers: hidden layers ("stack_mlp", default 1) or blocks ("conv", default 3).
        adapter_kernel: kernel of the convolutions in frames, odd.
        adapter_ffn_ratio: width of the feed-forward layers of "conv" over ``adapter_hidden_size``.
        adapter_dropout: dropout inside the adapter, in [0, 1).
        adapter_output_norm: Euclidean norm at which the adapter's outputs start, > 0;
            `SpeechLMForConditionalGeneration.from_towers` measures it as the median norm of the
            language model's input embeddings.
        audio_token_id: id of the placeholder for one speech frame. It needs no row in the embedding
            table; default one past the language model's vocabulary.
        pad_token_id: padding token, whose embedding is the anchor for "nothing said".
        bos_token_id: first token of a prompt, None where the language model has none.
        eos_token_id: token that ends a transcript.
        snap: share s in [0, 1] of what enters the language model that is snapped to its embeddings,
            ``(1 - s) speech + s softmax(cos(speech, E) / snap_temperature) E``.
        snap_temperature: temperature of that softmax, > 0.
        merge_threshold: cosine above which the frames of a pair are merged; None = never.
        drop_threshold: cosine to the pad embedding above which a frame is dropped; None = never.
        drop_temperature: softness of dropping in training, > 0.
        short_mel: Whisper only: encode the true length instead of 30 s (sliced position table,
            padding masked in convolutions and attention). The encoder must have been trained so.
        encoder_frame_plan: (kernel, stride, padding) of each strided layer of the encoder; derived
            from ``audio_config`` where that is known.
        lora: LoRA modules inside the language model (see `otreg.model.lora`); None = none.

    Raises:
        ValueError: a value out of its range.
    """

    model_type = "otreg_speech_lm"
    # A list, since Trainer adds to it; these outputs would otherwise be gathered in evaluation.
    keys_to_ignore_at_inference = [  # noqa: RUF012
        "past_key_values",
        "labels",
        "attention_mask",
        "source_index",
        "speech_embeds",
        "speech_mask",
    ]
    sub_configs_defaults = {  # noqa: RUF012 (transformers declares it as a ClassVar)
        "audio_config": SubConfigSpec(config_class=AutoConfig, model_type="whisper"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="qwen2"),
    }

    audio_config: Any = None
    text_config: Any = None
    adapter_type: str = "stack_mlp"
    adapter_stack: Any = None  # None until __post_init__ resolves it, as elsewhere
    adapter_hidden_size: Any = None
    adapter_layers: Any = None
    adapter_kernel: int = 5
    adapter_ffn_ratio: float = 4.0
    adapter_dropout: float = 0.0
    adapter_output_norm: float = 1.0
    audio_token_id: Any = None
    pad_token_id: Any = None
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    snap: float = 0.0
    snap_temperature: float = 0.1
    merge_threshold: float | None = None
    drop_threshold: float | None = None
    drop_temperature: float = 0.05
    short_mel: bool = False
    encoder_frame_plan: Any = None
    lora: dict | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Resolve the defaults that depend on the towers and check every range."""
        super().__post_init__(**kwargs)
        if self.adapter_type not in ADAPTER_TYPES:
            raise ValueError(
                f"adapter_type must be one of {', '.join(ADAPTER_TYPES)}; got {self.adapter_type!r}"
            )
        audio: Any = self.audio_config
        text: Any = self.text_config
        if self.adapter_stack is None:
            self.adapter_stack = _DEFAULT_STACK[self.adapter_type]
        if self.adapter_layers is None:
            self.adapter_layers = _DEFAULT_LAYERS[self.adapter_type]
        if self.adapter_hidden_size is None:
            wide = self.adapter_type == "stack_mlp"
            self.adapter_hidden_size = text.hidden_size if wide else encoder_dim(audio)
        if self.encoder_frame_plan is None:
            self.encoder_frame_plan = encoder_frame_plan(audio)
        self.encoder_frame_plan = [list(map(int, layer)) for layer in self.encoder_frame_plan]
        if self.audio_token_id is None:
            self.audio_token_id = int(text.vocab_size)
        if self.bos_token_id is None:
            self.bos_token_id = first_id(getattr(text, "bos_token_id", None))
        if self.eos_token_id is None:
            self.eos_token_id = first_id(getattr(text, "eos_token_id", None))
        if self.pad_token_id is None:
            pad = first_id(getattr(text, "pad_token_id", None))
            self.pad_token_id = self.eos_token_id if pad is None else pad
        self._check()

    def _check(self) -> None:
        finite = "> 0 and finite"
        checks = {
            "adapter_stack": (self.adapter_stack >= 1, ">= 1"),
            "adapter_layers": (self.adapter_layers >= 0, ">= 0"),
            "adapter_hidden_size": (self.adapter_hidden_size >= 1, ">= 1"),
            "adapter_kernel": (self.adapter_kernel % 2 == 1, "odd"),
            "adapter_ffn_ratio": (0 < self.adapter_ffn_ratio < math.inf, finite),
            "adapter_dropout": (0 <= self.adapter_dropout < 1, "in [0, 1)"),
            "adapter_output_norm": (0 < self.adapter_output_norm < math.inf, finite),
            "snap": (0 <= self.snap <= 1, "in [0, 1]"),
            "snap_temperature": (0 < self.snap_temperature < math.inf, finite),
            "drop_temperature": (0 < self.drop_temperature < math.inf, finite),
            "merge_threshold": (_is_cosine(self.merge_threshold), "None or in [-1, 1]"),
            "drop_threshold": (_is_cosine(self.drop_threshold), "None or in [-1, 1]"),
            "audio_token_id": (self.audio_token_id >= 0, ">= 0"),
        }
        for name, (holds, expected) in checks.items():
            if not holds:
                raise ValueError(f"{name} must be {expected}; got {getattr(self, name)!r}")
        if self.short_mel and self.audio_config.model_type != "whisper":
            raise ValueError(
                f"short_mel is for Whisper encoders; this one is {self.audio_config.model_type!r}, "
                "which takes any length: leave short_mel=False"
            )

    @property
    def frame_plan(self) -> FramePlan:
        """(kernel, stride, padding) of every layer from input features to speech frames."""
        return [*self.encoder_frame_plan, *adapter_frame_plan(self.adapter_stack)]


def adapter_frame_plan(stack: int) -> FramePlan:
    """Give the frame plan of stacking: ``ceil(frames / stack)``, a last short group kept."""
    return [(1, stack, 0)]


def encoder_dim(audio_config: Any) -> int:
    """Give the width of a speech encoder's outputs."""
    if getattr(audio_config, "add_adapter", False):
        return int(audio_config.output_hidden_size)
    return int(audio_config.hidden_size)


def first_id(value: Any) -> int | None:
    """Give a token id as one int where a configuration may list several, None where it has none."""
    if isinstance(value, list | tuple):
        value = value[0] if value else None
    return None if value is None else int(value)


def _is_cosine(value: float | None) -> bool:
    return value is None or -1 <= value <= 1
