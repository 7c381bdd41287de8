"""Batches by a processor's chat template, which most families share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from families.base import transcript_labels


def chat_batch(
    processor: Any,
    waveforms: Sequence[np.ndarray],
    transcripts: Sequence[str],
    *,
    request: str = "",
    start: str = "",
    end: str,
) -> dict[str, Any]:
    """`TinyFamily.batch` by the chat template: the assistant's turn is `start`, the transcript and `end`."""
    chats = _questions(waveforms, request)
    for chat, transcript in zip(chats, transcripts, strict=True):
        answer = [{"type": "text", "text": start + transcript}]
        chat.append({"role": "assistant", "content": answer})
    inputs = _encode(processor, chats, padding_side="right")
    tokenizer = processor.tokenizer
    answers = [tokenizer(text + end, add_special_tokens=False).input_ids for text in transcripts]
    labels = transcript_labels(inputs["input_ids"], inputs["attention_mask"], answers)
    return {**inputs, "labels": labels}


def chat_prompt(
    processor: Any, waveforms: Sequence[np.ndarray], *, request: str = ""
) -> dict[str, Any]:
    """`TinyFamily.prompt` by the chat template."""
    chats = _questions(waveforms, request)
    return _encode(processor, chats, padding_side="left", add_generation_prompt=True)


def _questions(waveforms: Sequence[np.ndarray], request: str) -> list[list[dict[str, Any]]]:
    text = [{"type": "text", "text": request}] if request else []
    return [
        [{"role": "user", "content": [{"type": "audio", "audio": waveform}, *text]}]
        for waveform in waveforms
    ]


def _encode(processor: Any, chats: list[Any], padding_side: str, **kwargs: Any) -> dict[str, Any]:
    options = {"text_kwargs": {"padding": True, "padding_side": padding_side}}
    inputs = processor.apply_chat_template(
        chats,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs=options,
        **kwargs,
    )
    return dict(inputs)
