"""How well word times agree with reference times."""

from collections.abc import Sequence
from statistics import median
from typing import Protocol

from otreg.evaluation.diff import align_sequences
from otreg.evaluation.wer import normalize_text

Sample = tuple[list[float], list[float]]  # numerators and denominators, utterance by utterance


class TimedWord(Protocol):
    """A word and its time, such as `otreg.data.manifest.Word`; seconds from the clip's start."""

    @property
    def word(self) -> str:
        """The word as written."""

    @property
    def start_s(self) -> float:
        """Where it starts."""

    @property
    def end_s(self) -> float:
        """Where it ends."""


def word_time_samples(
    references: Sequence[Sequence[TimedWord]],
    hypotheses: Sequence[Sequence[TimedWord]],
    *,
    language: str | Sequence[str] = "",
    frame_s: float = 0.02,
) -> dict[str, Sample]:
    """The sums behind `WORD_TIME_MEASURES`, utterance by utterance; the median has none.

    Words are matched by the alignment with the fewest edits, compared as error rates compare them;
    only equal words count as matched.

    Args:
        references: words with their true times, of each utterance.
        hypotheses: words with the times to judge, in the same order of utterances.
        language: decides how words are normalised; one for all, or one for each utterance.
        frame_s: length of a frame in seconds; a start hits where both fall into one frame.

    Raises:
        ValueError: sequences of different lengths, or a frame that is not positive.
    """
    _check(references, hypotheses, frame_s)
    found: dict[str, Sample] = {}
    languages = _languages(language, len(references))
    for reference, hypothesis, spoken in zip(references, hypotheses, languages, strict=True):
        pairs = _matched(reference, hypothesis, spoken)
        errors = [abs(there.start_s - here.start_s) for here, there in pairs]
        hits = sum(_frame(a.start_s, frame_s) == _frame(b.start_s, frame_s) for a, b in pairs)
        shared = [max(0.0, min(a.end_s, b.end_s) - max(a.start_s, b.start_s)) for a, b in pairs]
        count = float(len(pairs))
        for name, above, below in (
            ("start_error_mean_s", sum(errors), count),
            ("start_within_50ms", sum(error <= 0.05 + 1e-9 for error in errors), count),
            ("start_within_100ms", sum(error <= 0.1 + 1e-9 for error in errors), count),
            ("start_frame_f1", 2.0 * hits, len(reference) + len(hypothesis)),
            (
                "intersection_duration_ratio",
                sum(shared),
                sum(word.end_s - word.start_s for word in reference),
            ),
        ):
            numerators, denominators = found.setdefault(name, ([], []))
            numerators.append(float(above))
            denominators.append(float(below))
    return found


def word_time_measures(
    references: Sequence[Sequence[TimedWord]],
    hypotheses: Sequence[Sequence[TimedWord]],
    *,
    language: str | Sequence[str] = "",
    frame_s: float = 0.02,
) -> dict[str, float]:
    """The measures of `otreg.evaluation.measures.WORD_TIME_MEASURES` over a corpus.

    Args and errors: as for `word_time_samples`.

    Returns:
        Measure -> value, and num_words (of the references) and num_matched. A measure without a
        word to tell of is left out.
    """
    samples = word_time_samples(references, hypotheses, language=language, frame_s=frame_s)
    values = {
        name: sum(above) / sum(below) for name, (above, below) in samples.items() if sum(below) > 0
    }
    languages = _languages(language, len(references))
    errors = [
        abs(there.start_s - here.start_s)
        for reference, hypothesis, spoken in zip(references, hypotheses, languages, strict=True)
        for here, there in _matched(reference, hypothesis, spoken)
    ]
    if errors:
        values["start_error_median_s"] = median(errors)
    counts = {"num_words": sum(map(len, references)), "num_matched": len(errors)}
    return values | counts


def _languages(language: str | Sequence[str], count: int) -> Sequence[str]:
    """The language of each utterance."""
    if isinstance(language, str):
        return [language] * count
    if len(language) != count:
        raise ValueError(
            f"expected a language for each of {count} references, received {len(language)}"
        )
    return language


def _matched(
    reference: Sequence[TimedWord], hypothesis: Sequence[TimedWord], language: str
) -> list[tuple[TimedWord, TimedWord]]:
    """The pairs of words on which the transcripts agree."""
    steps = align_sequences(
        [normalize_text(word.word, language) for word in reference],
        [normalize_text(word.word, language) for word in hypothesis],
    )
    return [
        (reference[i], hypothesis[j])
        for kind, i, j in steps
        if kind == "equal" and i is not None and j is not None
    ]


def _frame(time_s: float, frame_s: float) -> int:
    return int(time_s / frame_s + 1e-6)  # 0.06 / 0.02 is a little below 3


def _check(references: Sequence[object], hypotheses: Sequence[object], frame_s: float) -> None:
    if len(references) != len(hypotheses):
        raise ValueError(
            f"expected hypotheses for {len(references)} references, received {len(hypotheses)}"
        )
    if not frame_s > 0:
        raise ValueError(f"expected frame_s > 0 seconds, received {frame_s}")
