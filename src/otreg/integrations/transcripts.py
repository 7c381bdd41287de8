"""Where transcripts come from in a model of others: the labels, or a key of the batch."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from otreg.data.collate import IGNORED_LABEL
from otreg.data.padding import pad_ids

logger = logging.getLogger(__name__)


class Transcripts:
    """Finds the transcript of each clip of a batch.

    Args:
        model: of whose configurations end, padding and other special tokens are read.
        processor: the processor or tokenizer; None = the configurations alone say which tokens are
            special.
        text: a key of the batch that holds the transcripts: strings, one a clip, None or "" where a
            clip has none; or ids, (clips, tokens), -100 at padding. None = the labels: the
            assistant's turn, which is the transcript where the task is transcription.
        audio_token_id: the placeholder, which is no text; None = the family has none.
        text_behind: the token of an answer behind which its transcript begins; None = at its start.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        text: str | None,
        audio_token_id: int | None,
        text_behind: str | None = None,
    ) -> None:
        self.text = text
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.end_ids = _end_ids(model, self.tokenizer)
        special = _special_ids(model, self.tokenizer) | _valid([audio_token_id])
        self.special_ids = special | self.end_ids
        self.pad_token_id = _pad_id(model, self.tokenizer)
        self.begin_id: int | None = None
        if text_behind is not None and self.tokenizer is not None:
            self.begin_id = self.tokenizer.convert_tokens_to_ids(text_behind)
        self._was_told = False

    def of(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """(clips, tokens) ids and mask of the transcripts.

        Raises:
            ValueError: no labels, a row with several clips, or a transcript without a token.
        """
        if not self._was_told:
            self._was_told = True
            source = "labels" if self.text is None else f"{self.text!r} of the batch"
            logger.info(
                "transcripts are taken from the %s%s",
                source,
                ""
                if self.text
                else "; for tasks other than transcription pass text=, see attach()",
            )
        clips = batch["clips"]
        rows = self._from_labels(batch, clips) if self.text is None else self._from_key(batch)
        device = batch["input_ids"].device
        ids = pad_ids(rows, 0).to(device)
        return ids, pad_ids([[1] * len(row) for row in rows], 0).bool().to(device)

    def _from_labels(self, batch: Mapping[str, Any], clips: Tensor) -> list[list[int]]:
        labels = batch.get("labels")
        if labels is None:
            raise ValueError(
                "the batch has no labels, which would be the transcripts; add them, or pass text=, the "
                "batch's key that holds the transcripts"
            )
        found = []
        seen: set[int] = set()
        for row, start, count in clips.tolist():
            if row in seen:
                raise ValueError(
                    f"row {row} of the batch holds several clips, and its labels are one text; pass "
                    "text=, a key of the batch that holds a transcript for each clip"
                )
            seen.add(row)
            before = labels[row, : start + count].tolist()
            if words_of_labels(before, self.special_ids, ()):
                raise ValueError(
                    f"row {row} of the batch has labels in front of its speech, which are no transcript; "
                    "label the assistant's turn alone (-100 elsewhere), or pass text=, a key of the "
                    "batch that holds the transcripts"
                )
            answer = labels[row].tolist()
            if self.begin_id in answer:
                answer = answer[answer.index(self.begin_id) + 1 :]
            found.append(words_of_labels(answer, self.special_ids, self.end_ids))
            if not found[-1]:
                raise ValueError(
                    f"the labels of row {row} of the batch hold no text, so there is no transcript; "
                    "label the assistant's turn, or pass text="
                )
        return found

    def _from_key(self, batch: Mapping[str, Any]) -> list[list[int]]:
        assert self.text is not None
        if self.text not in batch:
            raise ValueError(
                f"the batch has no {self.text!r}, which text= names for the transcripts; it has "
                f"{', '.join(sorted(batch))}"
            )
        given = batch[self.text]
        if isinstance(given, Tensor):
            rows = [[i for i in row if i != IGNORED_LABEL] for row in given.tolist()]
            return [[i for i in row if i not in self.special_ids] for row in rows]
        if self.tokenizer is None:
            raise ValueError(
                "transcripts that are strings need the tokenizer; pass processor= to attach()"
            )
        return [
            self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
            for text in given
        ]


def words_of_labels(
    labels: Sequence[int], special_ids: Iterable[int], end_ids: Iterable[int]
) -> list[int]:
    """The ids of a row's labels that are text: up to the first end token behind text.

    Args:
        labels: ids, -100 where not supervised.
        special_ids: ids that are no text.
        end_ids: ids that end an answer.
    """
    special, ends = set(special_ids), set(end_ids)
    words: list[int] = []
    for token in labels:
        if token in ends and words:
            break
        if token != IGNORED_LABEL and token not in special:
            words.append(token)
    return words


def _end_ids(model: Any, tokenizer: Any) -> set[int]:
    """Ids that end an answer."""
    found = _configured(model, "eos_token_id")
    if tokenizer is not None:  # configurations also carry ids that their tokenizer has as text
        found &= _special_of(tokenizer)
    return found | _valid([getattr(tokenizer, "eos_token_id", None)])


def _special_ids(model: Any, tokenizer: Any) -> set[int]:
    """Ids that are no text."""
    if tokenizer is None:
        return _configured(model, "bos_token_id") | _configured(model, "pad_token_id")
    return _special_of(tokenizer)


def _special_of(tokenizer: Any) -> set[int]:
    """The ids that a tokenizer calls special."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = [number for number, token in added.items() if token.special]
    return _valid([*getattr(tokenizer, "all_special_ids", ()), *special])


def _pad_id(model: Any, tokenizer: Any) -> int | None:
    """The id of the pad token; None where the model has none."""
    named = _valid([getattr(tokenizer, "pad_token_id", None)])
    found = sorted(named or _configured(model, "pad_token_id"))
    rows = model.get_input_embeddings().weight.shape[0]
    return next((number for number in found if number < rows), None)


def _configured(model: Any, name: str) -> set[int]:
    """The ids that a model's configurations give under a name."""
    text = model.config.get_text_config()
    places = (getattr(model, "generation_config", None), model.config, text)
    values: list[Any] = []
    for place in places:
        value = getattr(place, name, None)
        values += value if isinstance(value, list | tuple) else [value]
    return _valid(values)


def _valid(values: Iterable[Any]) -> set[int]:
    """Those that are ids: configurations also hold None and -1 for "none"."""
    return {value for value in values if isinstance(value, int) and value >= 0}
