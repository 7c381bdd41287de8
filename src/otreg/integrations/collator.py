"""Rows of speech and transcripts to training batches of any family, by the model's own processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otreg.data.audio import SAMPLE_RATE_HZ, resample
from otreg.data.collate import IGNORED_LABEL
from otreg.data.padding import pad_ids
from otreg.integrations.voxtral import voxtral_prompts

REQUEST = "Transcribe the speech."
_BY_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
_REQUEST_OPTIONS = {"FunAsrNanoProcessor": {"padding": True}}  # the others pad by themselves


class TranscriptionCollator:
    """Make a training batch: the family's prompt, the transcript as the answer, its end token.

    The prompt is what the model is given at inference, expanded by its own processor; the answer's
    tokens follow it, and are the labels. Rows are padded on the right.

    Args:
        processor: the model's processor.
        request: what the user asks beside the audio; None = the family's own transcription request
            where its processor has one, else "Transcribe the speech.".
        options: further arguments of that request, such as language="English", which Qwen3-ASR should
            be given: its answers name the language first.

    Raises:
        ValueError: when called: audio that is not (samples,) at 16 kHz, or a row without text.

    Example::

        collate = TranscriptionCollator(AutoProcessor.from_pretrained(name))
        batch = collate([{"audio": samples, "text": "the green house"}])
    """

    def __init__(self, processor: Any, request: str | None = None, **options: Any) -> None:
        self.processor = processor
        self.request = request
        self.options = options
        self.tokenizer = processor.tokenizer

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch of rows, each with "audio", (samples,) float at 16 kHz, and "text"."""
        for number, row in enumerate(rows):
            if not row.get("text"):
                raise ValueError(
                    f"row {number} has no text, so there is nothing to learn; leave it out"
                )
        inputs = self.prompts([row["audio"] for row in rows])
        end = self._end()
        answers = [
            [*self.tokenizer(row["text"], add_special_tokens=False)["input_ids"], *end]
            for row in rows
        ]
        return with_answers(inputs, answers, self.pad_token_id)

    def prompts(self, audio: Sequence[Any]) -> dict[str, Any]:
        """A batch to generate from, padded as the processor pads."""
        waveforms = [_waveform(one, number) for number, one in enumerate(audio)]
        kind = type(self.processor).__name__
        if kind == "VoxtralProcessor":
            return voxtral_prompts(self.processor, waveforms, **self.options)
        if self.request is None and hasattr(self.processor, "apply_transcription_request"):
            options = _REQUEST_OPTIONS.get(kind, {}) | self.options
            return dict(self.processor.apply_transcription_request(waveforms, **options))
        request = REQUEST if self.request is None else self.request
        if hasattr(self.processor, "audio_placeholder"):
            return self._by_placeholder(waveforms, request)
        chats = [_chat(waveform, request) for waveform in waveforms]
        inputs = self.processor.apply_chat_template(
            chats,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
            processor_kwargs={"text_kwargs": {"padding": True}},
            **self.options,
        )
        return dict(inputs)

    def questions(self, audio: Sequence[Any], *, left: bool = True) -> dict[str, Any]:
        """As `prompts`, padded on the left, as generation wants it, whatever the processor does."""
        inputs = self.prompts(audio)
        return with_answers(inputs, [[]] * len(audio), self.pad_token_id, left=left, labels=False)

    def _by_placeholder(self, waveforms: Sequence[np.ndarray], request: str) -> dict[str, Any]:
        """Ultravox's way: a placeholder in the prompt's text, audio beside it."""
        turn = {"role": "user", "content": f"{request} {self.processor.audio_placeholder}"}
        text = self.tokenizer.apply_chat_template(
            [turn], tokenize=False, add_generation_prompt=True
        )
        inputs = self.processor(
            text=[text] * len(waveforms), audio=list(waveforms), sampling_rate=SAMPLE_RATE_HZ
        )
        return dict(inputs)

    def _end(self) -> list[int]:
        """The token that ends an answer in the chat template; the tokenizer's, where it writes none."""
        ends = set(self.tokenizer.all_special_ids)
        turns = [
            {"role": "user", "content": [{"type": "text", "text": "?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "\u2042"}]},
        ]
        template = getattr(self.processor, "chat_template", None) or self.tokenizer.chat_template
        if template is not None:
            written = self.tokenizer.apply_chat_template(
                turns, chat_template=template, tokenize=False
            )
            behind = written.rpartition("\u2042")[2]
            for token in self.tokenizer(behind, add_special_tokens=False)["input_ids"]:
                if token in ends or token in self.tokenizer.added_tokens_decoder:
                    return [token]
        if self.tokenizer.eos_token_id is None:
            raise ValueError(
                "neither the chat template nor the tokenizer has a token that ends a turn"
            )
        return [self.tokenizer.eos_token_id]

    @property
    def pad_token_id(self) -> int:
        """What fills rows up."""
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)


def with_answers(
    inputs: Mapping[str, Any],
    answers: Sequence[Sequence[int]],
    pad_token_id: int,
    *,
    left: bool = False,
    labels: bool = True,
) -> dict[str, Any]:
    """Put answers behind prompts.

    Args:
        inputs: a batch of prompts, padded on either side: input_ids, attention_mask, and whatever
            the processor adds; types of tokens go along, 0 at the answer.
        answers: of each row the ids.
        pad_token_id: fills the rest.
        left: whether the rows are padded on the left.
        labels: whether labels are made: -100 but at the answers.

    Returns:
        The batch.
    """
    mask = inputs["attention_mask"].bool()
    batch = dict(inputs)
    for name, value in inputs.items():
        if name not in _BY_TOKEN:
            continue
        fill = {"input_ids": None, "attention_mask": 1}.get(name, 0)
        rows = [
            [*value[i][mask[i]].tolist(), *(answer if fill is None else [fill] * len(answer))]
            for i, answer in enumerate(answers)
        ]
        batch[name] = pad_ids(rows, pad_token_id if fill is None else 0, left=left)
    if labels:
        targets = [
            [IGNORED_LABEL] * int(mask[i].sum()) + list(answer) for i, answer in enumerate(answers)
        ]
        batch["labels"] = pad_ids(targets, IGNORED_LABEL, left=left)
    if "audio_token_start_idx" in batch:  # Ultravox's columns count the padding on the left
        before = (~mask).long().cumprod(1).sum(1)
        now = (batch["attention_mask"] == 0).long().cumprod(1).sum(1)
        batch["audio_token_start_idx"] = batch["audio_token_start_idx"] + (
            now - before
        ).repeat_interleave(batch["audio_batch_size"])
    return batch


def _chat(waveform: np.ndarray, request: str) -> list[dict[str, Any]]:
    content = [{"type": "audio", "audio": waveform}, {"type": "text", "text": request}]
    return [{"role": "user", "content": content}]


def _waveform(audio: Any, number: int) -> np.ndarray:
    """(samples,) float32; also of what `datasets` decodes to, {"array": …, "sampling_rate": …}."""
    rate = SAMPLE_RATE_HZ
    if not isinstance(audio, np.ndarray | Tensor | list | tuple) and hasattr(audio, "__getitem__"):
        audio, rate = audio["array"], audio["sampling_rate"]
    samples = audio.numpy() if torch.is_tensor(audio) else np.asarray(audio)
    if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating) or not len(samples):
        raise ValueError(
            f"the audio of row {number} must be (samples,) float, one channel, got "
            f"{samples.dtype} {samples.shape}"
        )
    return np.ascontiguousarray(resample(samples, rate), dtype=np.float32)
