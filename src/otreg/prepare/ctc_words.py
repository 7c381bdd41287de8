"""Word times by CTC alignment with any Hugging Face CTC model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from otreg.data.audio import SAMPLE_RATE_HZ, AudioError, load_audio
from otreg.data.manifest import Utterance, Word
from otreg.model.evaluation_mode import evaluating
from otreg.model.features import extract_features
from otreg.prepare.digests import model_identity
from otreg.prepare.program import Unusable
from otreg.prepare.spelling import (
    ANY,
    Label,
    spell,
    token_labels,
    word_spans,
    word_times,
)
from otreg.prepare.viterbi import monotone_path

UNKNOWN = ("refuse", "any")


class CtcWords:
    """A source of word times: the best CTC path of each transcript.

    Args:
        model: a Hugging Face model for CTC; its pad_token_id is the blank, as in its own loss.
        feature_extractor: the model's.
        tokenizer: the model's. One with a word delimiter, such as wav2vec 2.0's, spells characters;
            another is asked for its tokens and must know their offsets.
        unknown: letters and digits that the model does not know: "refuse" the row, or let "any"
            character of the model stand in their place.
        settings: what the model is known by, for journal and provenance.

    Raises:
        ValueError: an unknown value of unknown, or a model without a blank.
    """

    name = "ctc"
    batch_size = 1

    def __init__(
        self,
        model: Any,
        feature_extractor: Any,
        tokenizer: Any,
        *,
        unknown: str = "refuse",
        settings: dict[str, Any] | None = None,
    ) -> None:
        if unknown not in UNKNOWN:
            raise ValueError(f"unknown must be one of {', '.join(UNKNOWN)}; got {unknown!r}")
        if getattr(model.config, "pad_token_id", None) is None:
            raise ValueError(
                f"{type(model).__name__} has no pad_token_id, which is the CTC blank; set it in "
                "its configuration"
            )
        self.model = model
        self.feature_extractor = feature_extractor
        self.tokenizer = tokenizer
        self.unknown = unknown
        self.settings = {"source": self.name, "model": settings, "unknown": unknown}
        self._vocabulary: dict[str, int] = tokenizer.get_vocab()
        self._delimiter = getattr(tokenizer, "word_delimiter_token", None)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, unknown: str = "refuse", device: str | None = None
    ) -> CtcWords:
        """Load a model.

        Args:
            source: folder or Hub id.
            unknown: see the class.
            device: such as "cuda"; None = the CPU.

        Raises:
            ValueError: no CTC model can be loaded from there.
        """
        from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer

        try:
            model = AutoModelForCTC.from_pretrained(source)
            extractor = AutoFeatureExtractor.from_pretrained(source)
            tokenizer = AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"cannot load a CTC model from {str(source)!r}: {error}; give a folder or Hub id "
                "with model, feature extractor and tokenizer"
            ) from error
        identity = model_identity(source, model.config)
        if device is not None:
            model.to(torch.device(device))
        return cls(model, extractor, tokenizer, unknown=unknown, settings=identity)

    def __call__(self, rows: Sequence[Utterance]) -> list[list[Word] | Unusable]:
        """Word times of each row, or why it has none."""
        made: list[list[Word] | Unusable] = []
        for row in rows:
            try:
                made.append(self.align(row))
            except Unusable as error:
                made.append(error)
            except AudioError as error:
                made.append(Unusable("audio that cannot be used", str(error)))
        return made

    def align(self, row: Utterance) -> list[Word]:
        """Word times of one row.

        Raises:
            AudioError: audio that cannot be used.
            Unusable: a transcript that cannot be aligned to it.
        """
        labels = self.labels(row.text)
        samples = load_audio(row)
        log_probs = self._log_probs(row, samples)
        blank = self.model.config.pad_token_id
        scores = with_any(log_probs, blank)
        ids = np.array([label.id for label in labels])
        repeats = np.zeros(len(ids), dtype=bool)
        repeats[1:] = (ids[1:] == ids[:-1]) & (ids[1:] != ANY)
        try:
            frames, _ = monotone_path(scores[:, ids], log_probs[:, blank], repeats)
        except ValueError as error:
            raise Unusable(
                "more characters than frames",
                f"the CTC model makes {len(log_probs)} frames, too few for the {len(labels)} "
                "characters of the transcript; is it the transcript of this audio?",
            ) from error
        return word_times(
            row.text,
            word_spans(row.text, row.language),
            labels,
            frames,
            self._frame_s(len(log_probs), len(samples)),
            len(samples) / SAMPLE_RATE_HZ,
        )

    def labels(self, text: str) -> list[Label]:
        """What the model is to find of a transcript, in order.

        Raises:
            Unusable: characters that the model does not know, or nothing to align.
        """
        if self._delimiter is not None or not getattr(self.tokenizer, "is_fast", False):
            return spell(text, self._vocabulary, self._delimiter, self.unknown)
        unknown_id = getattr(self.tokenizer, "unk_token_id", None)
        labels = []
        for label in token_labels(self.tokenizer, text):
            known = label.id != unknown_id
            if not known and self.unknown == "refuse":
                raise Unusable(
                    "a character that the CTC model does not know",
                    f"the CTC model does not know {text[label.start : label.end]!r} of {text!r}; "
                    "write it out, or give --unknown any",
                )
            labels.append(label if known else Label(ANY, label.start, label.end))
        if not labels:
            raise Unusable("nothing to align", f"{text!r} has no tokens")
        return labels

    def _log_probs(self, row: Utterance, samples: np.ndarray) -> np.ndarray:
        """(frames, vocabulary) log probabilities of one utterance."""
        try:
            features = torch.from_numpy(extract_features(self.feature_extractor, samples))
            weight = next(self.model.parameters())
            inputs = {self.model.main_input_name: features[None].to(weight.device, weight.dtype)}
            with evaluating(self.model), torch.no_grad():
                logits = self.model(**inputs).logits[0]
        except (ValueError, RuntimeError) as error:  # too short or too long for the model
            raise AudioError(
                f"{row.name}: audio file {row.audio}: the CTC model fails on its "
                f"{len(samples) / SAMPLE_RATE_HZ:.2f} s: {error}"
            ) from error
        return torch.log_softmax(logits.double(), dim=-1).cpu().numpy()

    def _frame_s(self, num_frames: int, num_samples: int) -> float:
        """Seconds a frame: the model's own step where it fits, else the audio in equal parts."""
        step = getattr(self.model.config, "inputs_to_logits_ratio", None)
        if not step or abs(num_frames * step - num_samples) > 2 * step:
            step = num_samples / num_frames
        return float(step) / SAMPLE_RATE_HZ


def with_any(log_probs: np.ndarray, blank: int) -> np.ndarray:
    """Put the score of "any character" in a last column, where the label ANY = -1 finds it.

    It is the probability that the frame is not blank, log(1 - p_blank).

    Args:
        log_probs: (frames, vocabulary).
        blank: the blank's column.

    Returns:
        (frames, vocabulary + 1).
    """
    others = np.delete(log_probs, blank, axis=1)
    highest = others.max(axis=1, keepdims=True)
    total = highest + np.log(np.exp(others - highest).sum(axis=1, keepdims=True))
    return np.concatenate([log_probs, total], axis=1)
