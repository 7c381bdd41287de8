"""Granite Speech: a Conformer in blocks of 200 frames, a Q-Former of 3 queries per 15 frames, Granite.

Batch is not single: no mask enters the encoder, so a short utterance attends to the padding of its batch.
Beside 2.5 s of audio, the loss of 0.4 s moves by 0.25 here, its speech rows by up to 3.0 (they spread by
1.1). In training mode BatchNorm mixes the rows of a batch too, padding included.

Its feature extractor needs torchaudio, whose wheel from PyPI fails beside a CPU torch: `stand_in` gives it
the one thing it takes from there, a mel spectrogram. The rest of the processor is the family's own.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from transformers import (
    GraniteSpeechConfig,
    GraniteSpeechFeatureExtractor,
    GraniteSpeechForConditionalGeneration,
    GraniteSpeechProcessor,
)
from transformers.audio_utils import mel_filter_bank
from transformers.models.granite_speech import feature_extraction_granite_speech

from families.base import ReadFamily, save_random
from families.chat import chat_batch, chat_prompt
from families.qwen2_audio import (
    SPREAD,
    TINY_TEXT,
    byte_tokenizer,
    load_auto,
    text_config,
)

END = "<|end_of_text|>"  # also begins, pads and stands for the unknown, as in the checkpoints
REQUEST = "can you transcribe the speech into a written format?"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|start_of_role|>{{ message['role'] }}<|end_of_role|>"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|end_of_text|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"
)
NUM_MELS = 80  # the extractor forgets another number when it is saved
WINDOW = 15
DOWNSAMPLE = 5


class MelSpectrogram(torch.nn.Module):
    """What torchaudio.transforms.MelSpectrogram computes: power in HTK bands, centred frames."""

    def __init__(
        self, sample_rate: int, n_fft: int, win_length: int, hop_length: int, n_mels: int
    ) -> None:
        super().__init__()
        bands = mel_filter_bank(n_fft // 2 + 1, n_mels, 0.0, sample_rate / 2, sample_rate)
        self.bands = torch.from_numpy(bands).float()
        self.frames = (n_fft, hop_length, win_length, torch.hann_window(win_length))

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        spectrum = torch.stft(audio, *self.frames, return_complex=True)
        return self.bands.T @ spectrum.abs().square()


def stand_in() -> AbstractContextManager[Any]:
    """The family's feature extractor without torchaudio."""
    return mock.patch.multiple(
        feature_extraction_granite_speech,
        create=True,
        torchaudio=SimpleNamespace(transforms=SimpleNamespace(MelSpectrogram=MelSpectrogram)),
        requires_backends=lambda *_: None,
    )


@stand_in()
def save(folder: Path) -> None:
    tokenizer = byte_tokenizer(
        "<|audio|>",
        "<|start_of_role|>",
        "<|end_of_role|>",
        eos_token=END,
        bos_token=END,
        pad_token=END,
        unk_token=END,
    )
    extractor = GraniteSpeechFeatureExtractor()
    encoder = {
        **SPREAD,
        "input_dim": 2 * NUM_MELS,
        "hidden_dim": 16,
        "num_layers": 2,
        "num_heads": 2,
        "output_dim": 8,
        "dropout": 0.0,
    }
    qformer = {
        **TINY_TEXT,
        "model_type": "blip_2_qformer",
        "encoder_hidden_size": 16,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    config = GraniteSpeechConfig(
        **SPREAD,
        encoder_config=encoder,
        projector_config=qformer,
        text_config={"model_type": "granite", **text_config(tokenizer)},
        audio_token_index=tokenizer.convert_tokens_to_ids("<|audio|>"),
        has_lora_adapter=False,
        window_size=WINDOW,
        downsample_rate=DOWNSAMPLE,
    )
    processor = GraniteSpeechProcessor(extractor, tokenizer, chat_template=CHAT_TEMPLATE)
    save_random(folder, GraniteSpeechForConditionalGeneration, config, processor)


@stand_in()
def load(folder: Path) -> tuple[Any, Any]:
    return load_auto(folder)


def num_rows(num_samples: int) -> int:
    frames = (num_samples // 160 + 1) // 2  # centred mel frames, two side by side
    return -(-frames // WINDOW) * (WINDOW // DOWNSAMPLE)


FAMILY = ReadFamily(
    name="Granite Speech",
    model_type="granite_speech",
    save=save,
    load=load,
    batch=stand_in()(partial(chat_batch, request=REQUEST, end=f"{END}\n")),
    prompt=stand_in()(partial(chat_prompt, request=REQUEST)),
    num_rows=num_rows,
    stand_in=stand_in,
)
