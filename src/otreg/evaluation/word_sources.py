"""Word times of several sources against exact ones, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from otreg.data.manifest import Utterance, Word
from otreg.evaluation.word_times import word_time_measures

EVEN = "even"  # the control: words spread over the speech by their number of characters


def compare_sources(
    reference: Sequence[Utterance], sources: Mapping[str, Sequence[Utterance]]
) -> dict[str, dict[str, float]]:
    """Judge the word times of each source, with the control "even" last.

    The control puts the reference's words end to end from the first word's start to the last
    word's end, each as long as its share of the characters: a source must do better than that.

    Args:
        reference: rows with exact words, compared in the row's language; rows without words are
            passed over.
        sources: rows by name of source, matched with the reference by id.

    Returns:
        For each source what `otreg.evaluation.word_times.word_time_measures` returns, and
        num_utterances, those compared, and num_left_out, those to which the source gives no words.

    Raises:
        ValueError: a source that has the name of the control or gives words to no utterance.
    """
    if EVEN in sources:
        raise ValueError(f"{EVEN!r} is the control's name; give the source another")
    exact = {row.id: row.words for row in reference if row.words}
    languages = {row.id: row.language for row in reference}
    if not exact:
        raise ValueError("expected exact words to compare with, received rows without words")
    named = {**sources, EVEN: [evenly(row) for row in reference if row.words]}
    found: dict[str, dict[str, float]] = {}
    for name, rows in named.items():
        given = {row.id: row.words for row in rows if row.words}
        common = [identity for identity in exact if identity in given]
        if not common:
            raise ValueError(
                f"the source {name!r} gives words to none of the {len(exact)} utterances with exact "
                "ones; compare manifests of the same ids"
            )
        measures = word_time_measures(
            [exact[i] for i in common],
            [given[i] for i in common],
            language=[languages[i] for i in common],
        )
        counts = {"num_utterances": len(common), "num_left_out": len(exact) - len(common)}
        found[name] = measures | counts
    return found


def evenly(row: Utterance) -> Utterance:
    """The row with its words spread by their number of characters between first start and last end.

    Args:
        row: has words.
    """
    words = row.words or ()
    lengths = np.array([len(word.word) for word in words], dtype=float)
    begin, end = words[0].start_s, words[-1].end_s
    edges = begin + (end - begin) * np.concatenate([[0.0], lengths.cumsum() / lengths.sum()])
    times = zip(words, edges[:-1], edges[1:], strict=True)
    return replace(row, words=tuple(Word(w.word, float(a), float(b)) for w, a, b in times))
