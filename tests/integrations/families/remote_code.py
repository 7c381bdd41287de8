"""A model with code of its own, in Ultravox's manner: Whisper's encoder, a stacking projector, Llama.

As in Ultravox, the placeholders are end tokens, so no id tells where speech is: `audio_token_start_idx` and
`audio_token_len` do, and a loop writes speech over them. The language model is called by `.forward`, so
hooks of that module do not run; those of `get_decoder()` do.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoProcessor, GPT2Tokenizer, WhisperFeatureExtractor
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from families.base import SAMPLE_RATE_HZ, TEXTS, ReadFamily, transcript_labels

CODE = '''
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GenerationMixin, LlamaConfig, PretrainedConfig
from transformers import PreTrainedModel, ProcessorMixin, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder


class TinyUltravoxConfig(PretrainedConfig):
    model_type = "tiny_ultravox"
    sub_configs = {"text_config": LlamaConfig, "audio_config": WhisperConfig}

    def __init__(self, text_config=None, audio_config=None, stack_factor=8, **kwargs):
        self.text_config = LlamaConfig(**(text_config or {}))
        self.audio_config = WhisperConfig(**(audio_config or {}))
        self.stack_factor = stack_factor
        super().__init__(**kwargs)


class StackingProjector(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.stack_factor = config.stack_factor
        stacked = config.audio_config.d_model * config.stack_factor
        self.norm = nn.RMSNorm(stacked, eps=1e-6)
        self.linear_1 = nn.Linear(stacked, config.text_config.hidden_size, bias=False)
        self.linear_2 = nn.Linear(config.text_config.hidden_size, config.text_config.hidden_size, bias=False)

    def forward(self, frames):
        missing = -frames.shape[1] % self.stack_factor
        frames = nn.functional.pad(frames, (0, 0, 0, missing))
        stacked = frames.reshape(len(frames), -1, frames.shape[-1] * self.stack_factor)
        return self.linear_2(nn.functional.silu(self.linear_1(self.norm(stacked))))


class TinyUltravoxModel(PreTrainedModel, GenerationMixin):
    config_class = TinyUltravoxConfig
    main_input_name = "input_ids"
    input_modalities = ("audio", "text")
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        self.audio_tower = WhisperEncoder(config.audio_config)
        self.multi_modal_projector = StackingProjector(config)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self):
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self):
        return self.language_model.get_output_embeddings()

    def get_decoder(self):
        return self.language_model.get_decoder()

    def encode(self, audio_values, audio_lens):
        """Frames of 20 ms, (audios, frames, dim), 0 behind the true ones; of any length, unlike Whisper's."""
        real = torch.arange(audio_values.shape[-1], device=audio_values.device) < audio_lens[:, None]
        tower, activation = self.audio_tower, nn.functional.gelu
        hidden = activation(tower.conv1(audio_values * real[:, None])) * real[:, None]
        hidden = activation(tower.conv2(hidden)).transpose(1, 2)
        hidden = hidden + tower.embed_positions.weight[: hidden.shape[1]]
        real = real[:, ::2]
        mask = torch.zeros(real.shape, dtype=hidden.dtype, device=hidden.device)
        mask = mask.masked_fill(~real, torch.finfo(hidden.dtype).min)[:, None, None]
        for layer in tower.layers:
            hidden = layer(hidden, attention_mask=mask.expand(-1, -1, hidden.shape[1], -1))
        return tower.layer_norm(hidden) * real[:, :, None]

    def forward(
        self,
        input_ids=None,
        audio_values=None,
        audio_lens=None,
        audio_token_start_idx=None,
        audio_token_len=None,
        audio_batch_size=None,
        inputs_embeds=None,
        attention_mask=None,
        labels=None,
        **kwargs,
    ):
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if audio_values is not None:
            speech = self.multi_modal_projector(self.encode(audio_values, audio_lens))
            inputs_embeds = inputs_embeds.clone()
            audio = 0
            for row, num_audios in enumerate(audio_batch_size.tolist()):
                for _ in range(num_audios):
                    start, length = int(audio_token_start_idx[audio]), int(audio_token_len[audio])
                    inputs_embeds[row, start : start + length] = speech[audio, :length]
                    audio += 1
        return self.language_model.forward(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, labels=labels, **kwargs
        )

    def prepare_inputs_for_generation(self, input_ids, past_key_values=None, **kwargs):
        inputs = super().prepare_inputs_for_generation(
            input_ids, past_key_values=past_key_values, **kwargs
        )
        if past_key_values is not None and past_key_values.get_seq_length() > 0:
            inputs = {name: value for name, value in inputs.items() if not name.startswith("audio_")}
        return inputs


class TinyUltravoxProcessor(ProcessorMixin):
    stack_factor = 8
    audio_placeholder = "<|audio|>"

    def __init__(self, feature_extractor=None, tokenizer=None, chat_template=None):
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template)

    def __call__(self, text, audio, sampling_rate, padding_side="right"):
        """One audio per text, at its `audio_placeholder`."""
        features = self.feature_extractor(
            audio,
            sampling_rate=sampling_rate,
            padding="longest",
            pad_to_multiple_of=self.feature_extractor.hop_length,
            return_attention_mask=True,
            return_tensors="pt",
        )
        lens = features["attention_mask"].sum(1)
        token_lens = -(-lens // (2 * self.stack_factor))
        before = [sample.split(self.audio_placeholder)[0] for sample in text]
        starts = [len(self.tokenizer(part, add_special_tokens=False)["input_ids"]) for part in before]
        expanded = [
            sample.replace(self.audio_placeholder, self.tokenizer.eos_token * int(length))
            for sample, length in zip(text, token_lens)
        ]
        tokens = self.tokenizer(
            expanded, add_special_tokens=False, padding=True, padding_side=padding_side, return_tensors="pt"
        )
        shift = (tokens["attention_mask"] == 0).sum(1) if padding_side == "left" else 0
        return {
            **tokens,
            "audio_values": features["input_features"],
            "audio_lens": lens,
            "audio_token_len": token_lens,
            "audio_token_start_idx": torch.tensor(starts) + shift,
            "audio_batch_size": torch.ones(len(text), dtype=torch.long),
        }
'''
CHAT_TEMPLATE = (
    "<|begin_of_text|>{% for message in messages %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n{{ message['content'] }}<|eot_id|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QUESTION = {"role": "user", "content": "Transcribe: <|audio|>"}


def save(folder: Path) -> None:
    (folder / "modeling_tiny.py").write_text(CODE)
    tokenizer = GPT2Tokenizer(
        eos_token="<|eot_id|>",
        pad_token="<|finetune_right_pad_id|>",
        extra_special_tokens={
            "begin_token": "<|begin_of_text|>",
            "header_token": "<|start_header_id|>",
            "header_end_token": "<|end_header_id|>",
        },
    ).train_new_from_iterator([TEXTS], vocab_size=320)
    tokenizer.chat_template = CHAT_TEMPLATE
    model_class = get_class_from_dynamic_module("modeling_tiny.TinyUltravoxModel", folder)
    config = model_class.config_class(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "bos_token_id": tokenizer.begin_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        audio_config={
            "d_model": 16,
            "num_mel_bins": 16,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
        },
        auto_map={
            "AutoConfig": "modeling_tiny.TinyUltravoxConfig",
            "AutoModel": "modeling_tiny.TinyUltravoxModel",
        },
    )
    torch.manual_seed(0)
    model_class(config).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor = {"auto_map": {"AutoProcessor": "modeling_tiny.TinyUltravoxProcessor"}}
    (folder / "processor_config.json").write_text(json.dumps(processor))


def load(folder: Path) -> tuple[Any, Any]:
    return (
        AutoModel.from_pretrained(folder, trust_remote_code=True),
        AutoProcessor.from_pretrained(folder, trust_remote_code=True),
    )


def batch(
    processor: Any, waveforms: Sequence[np.ndarray], transcripts: Sequence[str]
) -> dict[str, Any]:
    texts = [
        processor.tokenizer.apply_chat_template(
            [QUESTION, {"role": "assistant", "content": transcript}], tokenize=False
        )
        for transcript in transcripts
    ]
    inputs = processor(texts, list(waveforms), sampling_rate=SAMPLE_RATE_HZ)
    answers = [processor.tokenizer(f"{text}<|eot_id|>")["input_ids"] for text in transcripts]
    inputs["labels"] = transcript_labels(inputs["input_ids"], inputs["attention_mask"], answers)
    return inputs


def prompt(processor: Any, waveforms: Sequence[np.ndarray]) -> dict[str, Any]:
    text = processor.tokenizer.apply_chat_template(
        [QUESTION], tokenize=False, add_generation_prompt=True
    )
    return processor(
        [text] * len(waveforms), list(waveforms), sampling_rate=SAMPLE_RATE_HZ, padding_side="left"
    )


def num_rows(num_samples: int) -> int:
    mel_frames = -(-num_samples // 160)  # a hop of 10 ms
    return -(-mel_frames // 16)  # a convolution of stride 2, then stacks of eight


FAMILY = ReadFamily(
    name="Ultravox-style remote code",
    model_type="tiny_ultravox",
    save=save,
    load=load,
    batch=batch,
    prompt=prompt,
    num_rows=num_rows,
)
