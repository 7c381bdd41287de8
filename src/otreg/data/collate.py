"""Examples to the one batch format that training, caching and generation share.

    {
        "input_ids":           (batch, tokens) long,  # prompt, in it config.audio_token_id once per
                                                      # speech frame; then, to train, the transcript
                                                      # and the end-of-sequence token
        "attention_mask":      (batch, tokens) long,  # 1 = real, 0 = padding
        "labels":              (batch, tokens) long,  # training only; -100 on prompt and padding

        # either raw features …
        "input_features":      (batch, frames, mels) or (batch, samples) float,  # padded with 0
        "input_features_mask": (batch, frames) or (batch, samples) bool,         # True = real
        # … or the frozen encoder's outputs, from a cache
        "encoder_hidden_states": (batch, encoder_frames, dim) float,             # padded with 0
        "encoder_mask":          (batch, encoder_frames) bool,                   # True = real

        # training only: the transcript's tokens alone (no begin, no end), for the objectives
        "text_ids":            (batch, text_tokens) long,
        "text_mask":           (batch, text_tokens) bool,                        # True = real
    }

Axes: batch, then time (tokens, frames, samples), then features. Features and text are padded on the
right; input_ids on the right to train and on the left to generate. A batch has no other key: rows
stand in the order of the examples, whose ids and texts stay in the dataset.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from otreg.data.dataset import Example, Processor

IGNORED_LABEL = -100


class SpeechTextCollator:
    """Pad examples of a `SpeechTextDataset` into one batch (the module's literal).

    Args:
        processor: tokenizes prompt and transcript, see `otreg.data.dataset.Processor`.
        padding_side: where input_ids, attention_mask and labels are padded; "left" to generate.
        training: whether the transcript is part of the batch.

    Raises:
        ValueError: for another padding side, and, when called, for examples of different kinds or
            without a transcript to train on.

    """

    def __init__(
        self,
        processor: Processor,
        *,
        padding_side: Literal["left", "right"] = "right",
        training: bool = True,
    ) -> None:
        if padding_side not in ("left", "right"):
            raise ValueError(f"padding_side must be 'left' or 'right', received {padding_side!r}")
        self.processor = processor
        self.padding_side = padding_side
        self.training = training

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Return the batch of these examples, in their order."""
        if not examples:
            raise ValueError("expected at least one example, received none")
        cached = ["encoder_hidden_states" in example for example in examples]
        if any(cached) != all(cached):
            raise ValueError(
                "some examples hold encoder_hidden_states and some input_features; "
                "a batch holds one kind: use the encoder cache for all or for none"
            )
        speech, num_speech_frames = (
            self._cached_states(examples) if cached[0] else self._features(examples)
        )
        return {**self._tokens(examples, num_speech_frames), **speech}

    def _cached_states(
        self, examples: Sequence[Example]
    ) -> tuple[dict[str, torch.Tensor], list[int]]:
        states, mask = pad_stack([example["encoder_hidden_states"] for example in examples])
        count = self.processor.num_speech_frames_from_encoder
        frames = [count(len(example["encoder_hidden_states"])) for example in examples]
        return {"encoder_hidden_states": states, "encoder_mask": mask}, frames

    def _features(self, examples: Sequence[Example]) -> tuple[dict[str, torch.Tensor], list[int]]:
        features, mask = pad_stack([example["input_features"] for example in examples])
        count = self.processor.num_speech_frames
        frames = [count(len(example["input_features"])) for example in examples]
        return {"input_features": features, "input_features_mask": mask}, frames

    def _tokens(
        self, examples: Sequence[Example], num_speech_frames: Sequence[int]
    ) -> dict[str, torch.Tensor]:
        rows = []
        for example, num_frames in zip(examples, num_speech_frames, strict=True):
            if self.training and not example["text"]:
                raise ValueError(
                    f"utterance {example['id']!r} has no transcript to train on; "
                    "pass training=False to transcribe it"
                )
            text = example["text"] if self.training else None
            try:
                row = self.processor.tokenize_example(num_frames, text, example["language"] or None)
            except ValueError as error:
                raise ValueError(f"utterance {example['id']!r}: {error}") from error
            rows.append(row)
        input_ids = [row["input_ids"] for row in rows]
        batch = {
            "input_ids": self._pad(input_ids, self.processor.pad_token_id),
            "attention_mask": self._pad([[1] * len(row) for row in input_ids], 0),
        }
        if self.training:
            batch["labels"] = self._pad([row["labels"] for row in rows], IGNORED_LABEL)
            text_ids = [row["text_ids"] for row in rows]
            batch["text_ids"] = _pad_ids(text_ids, self.processor.pad_token_id, "right")
            batch["text_mask"] = _pad_ids([[1] * len(ids) for ids in text_ids], 0, "right").bool()
        return batch

    def _pad(self, rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
        return _pad_ids(rows, value, self.padding_side)


def pad_stack(
    arrays: Sequence[np.ndarray | torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack (time, ...) arrays of different lengths, with zeros on the right.

    Returns:
        The stack (batch, longest time, ...) and its mask (batch, longest time), True = real.

    Raises:
        ValueError: when the arrays differ in more than their first axis.

    """
    tensors = [torch.as_tensor(array) for array in arrays]
    shapes = {tuple(tensor.shape[1:]) for tensor in tensors}
    if len(shapes) > 1:
        raise ValueError(
            f"expected arrays that differ in length alone, received the further axes "
            f"{sorted(shapes)}; is the encoder cache another encoder's?"
        )
    lengths = torch.tensor([len(tensor) for tensor in tensors])
    stack = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)
    return stack, torch.arange(stack.shape[1])[None, :] < lengths[:, None]


def _pad_ids(rows: Sequence[Sequence[int]], value: int, side: str) -> torch.Tensor:
    padded = torch.full((len(rows), max(len(row) for row in rows)), value, dtype=torch.long)
    for padded_row, row in zip(padded, rows, strict=True):
        if row:
            where = slice(len(row)) if side == "right" else slice(-len(row), None)
            padded_row[where] = torch.tensor(row, dtype=torch.long)
    return padded
