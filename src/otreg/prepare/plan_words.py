"""Word times from the transport plan of a trained model: no aligner, no extra labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from otreg.data.audio import AudioError
from otreg.data.collate import SpeechTextCollator
from otreg.data.dataset import SpeechTextDataset
from otreg.data.manifest import Utterance, Word
from otreg.model.evaluation_mode import evaluating
from otreg.model.loading import load_model, model_folder
from otreg.objectives.plan import TransportPlan
from otreg.pair import SpeechTextPair
from otreg.prepare.digests import model_identity
from otreg.prepare.program import Unusable
from otreg.prepare.spelling import token_labels, word_spans, word_times
from otreg.prepare.viterbi import monotone_path

# Every token is a target of its own, so that a repeated word is found where it is said each time. A
# softer plan than in training, whose rows still tell the second best token; and no position prior,
# for the path is monotone anyway. Chosen on synthetic speech: docs/prepare.md.
PLAN = TransportPlan(
    unique_threshold=None, pad_anchor=True, pad_mass="estimate", epsilon=0.2, position_prior=0.0
)
PARTS = 8  # a frame is cut into so many: several short tokens may share it
_FLOOR = 1e-9  # the least share of a frame that a token is given


@dataclass(frozen=True)
class TokenPlan:
    """How the frames of one utterance are shared out among the tokens of its transcript.

    Args:
        shares: (frames, tokens + 1), rows summing to 1; the last column is the pad anchor's,
            "nothing said". Frames stand at even distances over the whole utterance.
        ids: the transcript's token ids.
        duration_s: length of the utterance in seconds.
    """

    shares: np.ndarray
    ids: list[int]
    duration_s: float


def plan_of(model: Any, processor: Any, rows: Sequence[Utterance]) -> list[TokenPlan]:
    """Solve the transport problem of each row.

    Args:
        model: a trained `SpeechLMForConditionalGeneration`.
        processor: its `SpeechLMProcessor`.
        rows: utterances with audio and transcript.

    Returns:
        A plan a row. Where the model merges frames, the merged frame's row stands for each frame
        that it was made of.

    Raises:
        AudioError: audio that cannot be used.
    """
    # Of a conversation, its own audio and transcript alone.
    plain = [replace(row, messages=None, words=None) for row in rows]
    dataset = SpeechTextDataset(plain, processor)
    examples = [dataset[position] for position in range(len(rows))]
    batch = SpeechTextCollator(processor)(examples)
    batch = {name: value.to(model.device) for name, value in batch.items()}
    audio = {name: batch[name] for name in ("input_features", "input_features_mask")}
    with evaluating(model), torch.no_grad():
        features = model.get_audio_features(**audio)
        text = model.get_input_embeddings()(batch["text_ids"])
        pair = SpeechTextPair(
            features.speech_embeds.to(text.device, text.dtype),
            text,
            features.speech_mask,
            batch["text_mask"],
            token_ids=batch["text_ids"],
            pad_embedding=model.pad_embedding().detach(),
        )
        plan = PLAN.solve(pair).plan
    plans = []
    for row, example in enumerate(examples):
        if features.placeholder_keep is None:
            source = torch.arange(int(features.speech_mask[row].sum()))
        else:
            keep = features.placeholder_keep[row][: int(features.num_placeholders[row])]
            source = (keep.cumsum(0) - 1).cpu()
        ids = batch["text_ids"][row][batch["text_mask"][row]].tolist()
        shares = plan[row].double().cpu().numpy()[source.numpy()][:, : len(ids) + 1]
        shares = shares / shares.sum(axis=1, keepdims=True)
        plans.append(TokenPlan(shares, ids, float(example["duration_s"])))
    return plans


class PlanWords:
    """A source of word times: the best monotone path through the logarithm of the plan.

    The pad anchor is the path's blank: a pause may stand before and after every token. A frame of
    80 ms may hold more than one token, so the plan's rows are interpolated in time, to `PARTS` rows
    a frame.

    Args:
        model: a trained `SpeechLMForConditionalGeneration`.
        processor: its `SpeechLMProcessor`.
        settings: what the model is known by, for journal and provenance.
        batch_size: utterances encoded together.
    """

    name = "plan"

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        settings: dict[str, Any] | None = None,
        batch_size: int = 8,
    ) -> None:
        self.model = model
        self.processor = processor
        self.batch_size = batch_size
        self.settings = {
            "source": self.name,
            "model": settings,
            "plan": repr(PLAN),
            "parts": PARTS,
            "batch_size": batch_size,
        }

    @classmethod
    def from_pretrained(cls, source: str | Path, *, device: str | None = None) -> PlanWords:
        """Load the model of a run, or of a model folder.

        Raises:
            ValueError: there is no such model.
        """
        model, processor = load_model(str(source))
        identity = model_identity(model_folder(source))
        if device is not None:
            model.to(torch.device(device))  # type: ignore[arg-type]
        return cls(model, processor, settings=identity)

    def __call__(self, rows: Sequence[Utterance]) -> list[list[Word] | Unusable]:
        """Word times of each row, or why it has none."""
        try:
            plans: list[TokenPlan | Unusable] = [*plan_of(self.model, self.processor, rows)]
        except AudioError as error:
            if len(rows) == 1:
                return [Unusable("audio that cannot be used", str(error))]
            return [made for row in rows for made in self([row])]
        made: list[list[Word] | Unusable] = []
        for row, plan in zip(rows, plans, strict=True):
            assert isinstance(plan, TokenPlan)
            try:
                made.append(words_of_plan(row, plan, self.processor.tokenizer))
            except Unusable as error:
                made.append(error)
        return made


def words_of_plan(row: Utterance, plan: TokenPlan, tokenizer: Any) -> list[Word]:
    """Word times of one utterance from its plan.

    Args:
        row: the utterance; its text has the plan's tokens.
        plan: from `plan_of`.
        tokenizer: the language model's, a fast one.

    Raises:
        Unusable: more tokens than frames.
    """
    labels = token_labels(tokenizer, row.text, plan.ids)
    scores = np.log(np.maximum(interpolated(plan.shares, PARTS), _FLOOR))
    try:
        frames, _ = monotone_path(scores[:, :-1], scores[:, -1])
    except ValueError as error:
        raise Unusable(
            "more tokens than time",
            f"the model makes {len(plan.shares)} frames of {plan.duration_s:.2f} s, too few for the "
            f"{len(labels)} tokens of the transcript; is it the transcript of this audio?",
        ) from error
    return word_times(
        row.text,
        word_spans(row.text, row.language),
        labels,
        frames,
        plan.duration_s / len(scores),
        plan.duration_s,
    )


def interpolated(shares: np.ndarray, parts: int) -> np.ndarray:
    """Cut each frame into parts whose rows lie on straight lines between the frames' centres.

    Args:
        shares: (frames, columns), rows summing to 1.
        parts: of each frame.

    Returns:
        (frames * parts, columns), rows summing to 1; before the first centre and after the last the
        row stays as it is.
    """
    centres = (np.arange(len(shares) * parts) + 0.5) / parts - 0.5
    columns = [np.interp(centres, np.arange(len(shares)), column) for column in shares.T]
    return np.stack(columns, axis=1)
