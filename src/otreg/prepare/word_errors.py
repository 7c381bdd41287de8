"""How far the word times of several sources are from exact ones, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from otreg.data.manifest import Utterance, Word

EVEN = "even"  # the control: words spread over the utterance by their number of characters


@dataclass(frozen=True)
class StartErrors:
    """Absolute errors of word starts.

    Args:
        num_words: words compared.
        num_utterances: utterances compared.
        left_out: utterances of the reference that the source lacks, gives no times, or cuts into
            other words.
        median_ms, mean_ms: of the absolute error in milliseconds.
        within_50_ms, within_100_ms: shares of words with an error of at most that.
    """

    num_words: int
    num_utterances: int
    left_out: int
    median_ms: float
    mean_ms: float
    within_50_ms: float
    within_100_ms: float


def start_errors(reference: Sequence[Utterance], source: Sequence[Utterance]) -> StartErrors:
    """Compare the word starts of a source with exact ones.

    Args:
        reference: rows with exact words; those without words are passed over.
        source: rows to judge, matched by id; their words must be the reference's, but for case and
            punctuation.

    Returns:
        The errors.

    Raises:
        ValueError: no utterance can be compared.
    """
    found = {row.id: row.words for row in source}
    exact = {row.id: row.words for row in reference if row.words is not None}
    errors: list[float] = []
    compared = 0
    for identity, truth in exact.items():
        words = found.get(identity)
        if words is None or [_plain(w.word) for w in words] != [_plain(w.word) for w in truth]:
            continue
        compared += 1
        errors += [abs(a.start_s - b.start_s) for a, b in zip(words, truth, strict=True)]
    if not errors:
        raise ValueError(
            f"none of the {len(exact)} utterances with exact words has the same words in the "
            "source; compare manifests of the same ids and texts"
        )
    ms = 1000 * np.array(errors)
    return StartErrors(
        num_words=len(ms),
        num_utterances=compared,
        left_out=len(exact) - compared,
        median_ms=round(float(np.median(ms)), 1),
        mean_ms=round(float(ms.mean()), 1),
        within_50_ms=round(float((ms <= 50 + 1e-6).mean()), 4),
        within_100_ms=round(float((ms <= 100 + 1e-6).mean()), 4),
    )


def compare_sources(
    reference: Sequence[Utterance], sources: Mapping[str, Sequence[Utterance]]
) -> dict[str, dict[str, Any]]:
    """Start errors by name of source, with the control "even" last.

    The control puts the reference's words end to end from the first word's start to the last
    word's end, each as long as its share of the characters: a source must do better than that.
    """
    named = {**sources, EVEN: [_evenly(row) for row in reference if row.words]}
    return {name: asdict(start_errors(reference, rows)) for name, rows in named.items()}


def _evenly(row: Utterance) -> Utterance:
    assert row.words
    lengths = np.array([len(word.word) for word in row.words], dtype=float)
    begin, end = row.words[0].start_s, row.words[-1].end_s
    edges = begin + (end - begin) * np.concatenate([[0.0], lengths.cumsum() / lengths.sum()])
    times = zip(row.words, edges[:-1], edges[1:], strict=True)
    return replace(row, words=tuple(Word(w.word, float(a), float(b)) for w, a, b in times))


def _plain(word: str) -> str:
    return "".join(c for c in word.casefold() if c.isalnum()) or word
