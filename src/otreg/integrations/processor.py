"""A model of others as our own data sets, generation, training and evaluation see it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from otreg.data.audio import SAMPLE_RATE_HZ
from otreg.data.segments import Row
from otreg.integrations.collator import TranscriptionCollator
from otreg.integrations.port import OURS, ForeignPort

REQUEST_FILE = "otreg_request.json"
_END_SAMPLES = SAMPLE_RATE_HZ // 4
_SURELY_HEARD_SAMPLES = 20 * SAMPLE_RATE_HZ  # not tried again and again for short utterances
_PROBE_SAMPLES = SAMPLE_RATE_HZ // 4
_LONGEST_PROBE_SAMPLES = 600 * SAMPLE_RATE_HZ


class ForeignProcessor:
    """What `otreg.data.dataset.Processor` asks for, answered by the processor of a model of others.

    An example's features are its samples: the model's own processor turns them into what the model
    takes when the batch is made. Rows are transcribed, one clip each.

    Args:
        port: the model.
        processor: its processor.
        request: what the user asks beside the audio; None = the family's own request.
        options: further arguments of that request, see `TranscriptionCollator`.
    """

    def __init__(
        self, port: ForeignPort, processor: Any, request: str | None = None, **options: Any
    ) -> None:
        self.port: ForeignPort | None = port
        self.processor = processor
        self.request = request
        self.options = options
        self.collator = TranscriptionCollator(processor, request, **options)
        self.tokenizer = processor.tokenizer
        self.pad_token_id = self.collator.pad_token_id
        self._dtype: Any = None  # in a copy without the model
        self._begin_id = port.transcripts.begin_id
        self._longest_s: float | None = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy for another process, which makes batches and leaves the model where it is."""
        dtype = self._dtype if self.port is None else self.port.model.dtype
        return self.__dict__ | {"port": None, "_dtype": dtype}

    def features(self, samples: np.ndarray) -> np.ndarray:
        """(samples,) as they are.

        Raises:
            ValueError: the model's processor would leave their end out.
        """
        longest_s = self.longest_audio_s() if len(samples) > _SURELY_HEARD_SAMPLES else None
        if longest_s is not None and len(samples) > longest_s * SAMPLE_RATE_HZ:
            raise ValueError(
                f"it holds {len(samples) / SAMPLE_RATE_HZ:.1f} s, and "
                f"{type(self.processor).__name__} leaves out what is behind {longest_s:g} s; split it "
                "into shorter rows (start_s, end_s)"
            )
        return samples

    def feature_length(self, num_samples: int) -> int:
        """Samples stay samples."""
        return num_samples

    def num_speech_frames(self, feature_length: int) -> int:
        """Samples again: how many placeholders they become is counted in `tokenize_row`."""
        return feature_length

    def num_speech_frames_from_encoder(self, encoder_frames: int) -> int:
        """Refuse the encoder cache.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "encoder outputs cannot be kept for a model of others; leave data.cache_encoder out"
        )

    def tokenize_row(self, row: Row, num_frames: Sequence[int]) -> dict[str, Any]:
        """The row's input_ids with placeholders for clips of so many samples.

        Raises:
            ValueError: a row that is not one clip to transcribe.
        """
        _require_transcription(row)
        silence = np.zeros(num_frames[0], dtype=np.float32)
        batch = self.collator([{"audio": silence, "text": row.answer}])
        return {"input_ids": batch["input_ids"][0].tolist()}

    def collate(
        self, examples: Sequence[Any], *, training: bool, padding_side: str
    ) -> dict[str, torch.Tensor]:
        """A batch as the model takes it, floating-point tensors in its type.

        Args:
            examples: of a `SpeechTextDataset`.
            training: whether the answers are part of the batch, as labels.
            padding_side: "right", or "left" to generate.

        Raises:
            ValueError: a row that is not one clip to transcribe, or has nothing to train on.
        """
        for example in examples:
            row = example["row"]
            _require_transcription(row)
            if training and not example["text"]:
                raise ValueError(
                    f"{row.name or row.id} has nothing to train on (no transcript); leave it out"
                )
        audio = [example["input_features"][0] for example in examples]
        if training:
            rows = [
                {"audio": samples, "text": example["text"]}
                for samples, example in zip(audio, examples, strict=True)
            ]
            batch = self.collator(rows)
        else:
            batch = self.collator.questions(audio, left=padding_side == "left")
            for name in OURS:
                batch.pop(name, None)
        dtype = self._dtype if self.port is None else self.port.model.dtype
        return {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in batch.items()
            if torch.is_tensor(value)
        }

    def batch_decode(self, sequences: Any, *, skip_special_tokens: bool = True) -> list[str]:
        """The transcripts in some answers."""
        return [self.decode(ids, skip_special_tokens=skip_special_tokens) for ids in sequences]

    def decode(self, token_ids: Any, *, skip_special_tokens: bool = True) -> str:
        """The transcript in an answer: behind the token that precedes it, where the family has one."""
        ids = [int(token) for token in token_ids]
        begin = self._begin_id
        if begin in ids:
            ids = ids[ids.index(begin) + 1 :]
        text: str = self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        return text

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model's own processor, and what the user asks."""
        self.processor.save_pretrained(folder)
        asked = {"request": self.request, "options": self.options}
        (Path(folder) / REQUEST_FILE).write_text(json.dumps(asked) + "\n", encoding="utf-8")

    def longest_audio_s(self) -> float | None:
        """The longest audio of which the processor leaves nothing out, in seconds; None = any.

        Found by trying, to a quarter of a second: processors do not say it.
        """
        if self._longest_s is None:
            short, long = 0, 1 * _PROBE_SAMPLES
            while long <= _LONGEST_PROBE_SAMPLES and self._hears_to_the_end(long):
                short, long = long, 2 * long
            while long <= _LONGEST_PROBE_SAMPLES and long - short > _PROBE_SAMPLES:
                middle = (short + long) // (2 * _PROBE_SAMPLES) * _PROBE_SAMPLES
                heard = self._hears_to_the_end(middle)
                short, long = (middle, long) if heard else (short, middle)
            self._longest_s = short / SAMPLE_RATE_HZ if long <= _LONGEST_PROBE_SAMPLES else math.inf
        return None if math.isinf(self._longest_s) else self._longest_s

    def _hears_to_the_end(self, num_samples: int) -> bool:
        """Whether another end of the audio makes another batch: some processors cut without a word."""
        quiet = np.zeros(num_samples, dtype=np.float32)
        quiet[0] = 1  # a peak in both: log-mel features are scaled by theirs
        loud = quiet.copy()
        end = min(_END_SAMPLES, num_samples - 1)
        loud[num_samples - end :] = np.resize([0.5, -0.5], end)
        first, second = (self.collator.prompts([samples]) for samples in (quiet, loud))
        return any(
            not torch.equal(value, second[name])
            for name, value in first.items()
            if torch.is_tensor(value) and value.is_floating_point()
        )


def _require_transcription(row: Row) -> None:
    if row.kind != "transcribe" or len(row.clips) != 1:
        raise ValueError(
            f"{row.name or row.id} is no transcription of one clip, which is what models of others "
            "are trained and asked for here; take messages and interleaving out"
        )
