"""Examples to the one batch format that training, caching and generation share.

    {
        "input_ids":           (batch, tokens) long,  # text, and config.audio_token_id once per
                                                      # speech frame
        "attention_mask":      (batch, tokens) long,  # 1 = real, 0 = padding
        "labels":              (batch, tokens) long,  # training only; -100 where not supervised

        # the audio is flat: all clips of the batch, in the order of their placeholders; these keys
        # are missing where no row has a clip. Either raw features …
        "input_features":      (clips, frames, mels) or (clips, samples) float,  # padded with 0
        "input_features_mask": (clips, frames) or (clips, samples) bool,         # True = real
        # … or the frozen encoder's outputs, from a cache
        "encoder_hidden_states": (clips, encoder_frames, dim) float,             # padded with 0
        "encoder_mask":          (clips, encoder_frames) bool,                   # True = real
        "clips":               (clips, 3) long,       # row, first column and number of the clip's
                                                      # placeholders in input_ids

        # training only: each clip's transcript as it stands in the row or in its text twin
        "text_ids":            (clips, text_tokens) long,
        "text_mask":           (clips, text_tokens) bool,  # True = real; all False: no transcript
    }

Axes: batch or clips, then time (tokens, frames, samples), then features. Features and text are
padded on the right; input_ids on the right to train and on the left to generate. A batch has no
other key: rows stand in the order of the examples, whose ids and texts stay in the dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch

from otreg.data.dataset import Example, Processor
from otreg.data.padding import pad_ids, pad_stack

IGNORED_LABEL = -100


class SpeechTextCollator:
    """Pad examples of a `SpeechTextDataset` into one batch (the module's literal).

    A processor that has `collate(examples, *, training, padding_side)`, as that of a model of others
    does, makes the batch itself, as its model takes it.

    Args:
        processor: tokenizes rows, see `otreg.data.dataset.Processor`.
        padding_side: where input_ids, attention_mask and labels are padded; "left" to generate.
        training: whether the answers and transcripts are part of the batch.

    Raises:
        ValueError: for another padding side, and, when called, for examples of different kinds or
            with nothing to train on.

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
        collate = getattr(self.processor, "collate", None)
        if collate is not None:
            batch: dict[str, torch.Tensor] = collate(
                examples, training=self.training, padding_side=self.padding_side
            )
            return batch
        speech, num_frames = self._speech(examples)
        return {**self._tokens(examples, num_frames), **speech}

    def _speech(
        self, examples: Sequence[Example]
    ) -> tuple[dict[str, torch.Tensor], list[list[int]]]:
        """The clips of all rows, and the speech frames of each row's clips."""
        cached = ["encoder_hidden_states" in example for example in examples]
        if any(cached) != all(cached):
            raise ValueError(
                "some examples hold encoder_hidden_states and some input_features; "
                "a batch holds one kind: use the encoder cache for all or for none"
            )
        count: Callable[[int], int] = self.processor.num_speech_frames
        names = ("input_features", "input_features_mask")
        if cached[0]:
            count = self.processor.num_speech_frames_from_encoder
            names = ("encoder_hidden_states", "encoder_mask")
        rows: list[Any] = [example[names[0]] for example in examples]  # type: ignore[literal-required]
        num_frames = [[count(len(clip)) for clip in clips] for clips in rows]
        flat = [clip for clips in rows for clip in clips]
        if not flat:
            return {}, num_frames
        return dict(zip(names, pad_stack(flat), strict=True)), num_frames

    def _tokens(
        self, examples: Sequence[Example], num_frames: Sequence[Sequence[int]]
    ) -> dict[str, torch.Tensor]:
        rows = []
        for example, frames in zip(examples, num_frames, strict=True):
            row = example["row"]
            if self.training and not any(segment.supervised for segment in row.segments):
                raise ValueError(
                    f"{row.name or row.id} has nothing to train on (no transcript, no assistant's "
                    "turn); pass training=False to generate from it"
                )
            try:
                rows.append(
                    self.processor.tokenize_row(row if self.training else row.prompt(), frames)
                )
            except ValueError as error:
                raise ValueError(f"{row.name or row.id}: {error}") from error
        left = self.padding_side == "left"
        pad = self.processor.pad_token_id
        ids = [row["input_ids"] for row in rows]
        batch = {
            "input_ids": pad_ids(ids, pad, left=left),
            "attention_mask": pad_ids([[1] * len(row) for row in ids], 0, left=left),
        }
        size = batch["input_ids"].shape[1]
        clips = [
            (number, start + (size - len(row["input_ids"]) if left else 0), length)
            for number, row in enumerate(rows)
            for start, length in row["clips"]
        ]
        if clips:
            batch["clips"] = torch.tensor(clips, dtype=torch.long)
        if self.training:
            labels = [row["labels"] for row in rows]
            batch["labels"] = pad_ids(labels, IGNORED_LABEL, left=left)
            text_ids = [text for row in rows for text in row["text_ids"]]
            if text_ids:
                batch["text_ids"] = pad_ids(text_ids, pad)
                batch["text_mask"] = pad_ids([[1] * len(text) for text in text_ids], 0).bool()
        return batch
