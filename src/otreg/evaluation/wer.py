"""Word and character error rates, with counts, intervals and a normaliser that has a name.

Whisper's basic normaliser removes combining marks and so damages Indic scripts (arXiv 2409.02449);
this one keeps them.
"""

from __future__ import annotations

import logging
import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from otreg.evaluation.bootstrap import ratio_interval
from otreg.languages import is_character_language, primary

RUNAWAY_MULTIPLE = 2.0
RUNAWAY_MIN_WORDS = 5

_APOSTROPHES = frozenset("'\u2019\u2018\u02bc\uff07`\u00b4")
_ZERO_WIDTH_SPACE = "\u200b"
_DOTLESS_LANGUAGES = frozenset({"tr", "az"})

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Normalizer:
    """A text normaliser with the name and version that results record.

    Args:
        name: what it is called.
        version: changed whenever an output changes.
        function: (text, language) -> normalised text.

    """

    name: str
    version: str
    function: Callable[[str, str], str]

    def __call__(self, text: str, language: str) -> str:
        """Return the normalised text."""
        return self.function(text, language)

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


def normalize_text(text: str, language: str) -> str:
    """Bring a transcript to the form in which words are compared.

    NFKC and lower case. Letters, digits and the combining marks on them stay; so does an apostrophe
    between two of them (don't, l'eau). Format characters (soft hyphen, joiners, direction marks)
    go. Everything else, punctuation and symbols among it, separates words. Where characters are the
    words (`is_character_language`), the spaces go too.

    Example:
        >>> normalize_text("Don’t STOP — “हिन्दी”!", "en")
        "don't stop हिन्दी"

    Args:
        text: the transcript.
        language: its language code; Turkish and Azeri have their own lower case of I.

    Returns:
        Words with single spaces between them; "" where nothing is left.

    """
    text = "".join(
        "'" if character in _APOSTROPHES else character
        for character in text
        if unicodedata.category(character) != "Cf" or character == _ZERO_WIDTH_SPACE
    )
    text = unicodedata.normalize("NFKC", text)
    if primary(language) in _DOTLESS_LANGUAGES:
        text = text.replace("\u0130", "i").replace("I", "\u0131")
    text = unicodedata.normalize("NFKC", text.lower())
    output: list[str] = []
    for character, following in zip(text, text[1:] + " ", strict=False):
        category = unicodedata.category(character)[0]
        in_word = bool(output) and output[-1] != " "
        inside = character == "'" and unicodedata.category(following)[0] in "LN"
        if category in "LN" or (in_word and (category == "M" or inside)):
            output.append(character)
        else:
            output.append(" ")
    separator = "" if is_character_language(language) else " "
    return separator.join("".join(output).split())


BASIC_NORMALIZER = Normalizer("otreg-basic", "2", normalize_text)


@dataclass(frozen=True)
class ErrorRates:
    """Error rates of one set of utterances in one language.

    Args:
        num_utterances: utterances.
        num_words: words of the references; characters where characters are the words.
        num_characters: characters of the references, spaces counted.
        wer: (substitutions + deletions + insertions) / num_words, a fraction.
        cer: the same over characters, spaces counted; equals wer where characters are the words.
        substitutions: of words.
        deletions: of words.
        insertions: of words.
        empty: hypotheses without a word where the reference has one.
        runaway: hypotheses that reached the token limit, or that have more words than
            RUNAWAY_MULTIPLE times those of the reference (of RUNAWAY_MIN_WORDS, if it has fewer).
        wer_low: lower end of wer's 95 % interval, by bootstrap over utterances.
        wer_high: its upper end.
        unit: "word" or "character", what num_words and wer count.
        normalizer: name and version of the normaliser.
        utterance_errors: the terms of wer's numerator, utterance by utterance.
        utterance_words: the terms of its denominator.

    """

    num_utterances: int
    num_words: int
    num_characters: int
    wer: float
    cer: float
    substitutions: int
    deletions: int
    insertions: int
    empty: int
    runaway: int
    wer_low: float
    wer_high: float
    unit: str
    normalizer: str
    utterance_errors: tuple[int, ...] = field(repr=False)
    utterance_words: tuple[int, ...] = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields of the whole set by name, for the rows of results.json."""
        fields = asdict(self)
        return {name: fields[name] for name in fields if not name.startswith("utterance_")}


def error_rates(
    references: Sequence[str],
    hypotheses: Sequence[str],
    *,
    language: str,
    normalizer: Normalizer = BASIC_NORMALIZER,
    hit_limit: Sequence[bool] | None = None,
) -> ErrorRates:
    """Compare hypotheses with references, summed over utterances.

    Equation: wer = sum_i (S_i + D_i + I_i) / sum_i N_i, by minimal edits per utterance (jiwer).

    Args:
        references: transcripts.
        hypotheses: what was decoded, in the same order.
        language: language code of all of them; decides what a word is.
        normalizer: brings both sides to a comparable form.
        hit_limit: per utterance, whether decoding stopped at the token limit; None = nowhere.

    Returns:
        Rates, counts and the interval.

    Raises:
        ValueError: for sequences of different lengths, or references without a single word.

    Source:
        The interval: Bisani and Ney, Bootstrap estimates for confidence intervals in ASR
        performance evaluation, ICASSP 2004; see `otreg.evaluation.bootstrap`.

    """
    import jiwer
    from jiwer.transforms import ReduceToListOfListOfChars, ReduceToListOfListOfWords

    limits = [False] * len(references) if hit_limit is None else list(hit_limit)
    if not len(references) == len(hypotheses) == len(limits):
        raise ValueError(
            f"expected as many hypotheses as references, received {len(references)} references, "
            f"{len(hypotheses)} hypotheses and {len(limits)} limits"
        )
    normal_references = [normalizer(text, language) for text in references]
    normal_hypotheses = [normalizer(text, language) for text in hypotheses]
    wordless = sum(not text for text in normal_references)
    if wordless == len(references):
        raise ValueError(
            f"none of the {len(references)} references holds a word after {normalizer}; "
            "expected at least one"
        )
    if wordless:
        logger.warning(
            "%d of %d references hold no word after %s; every word decoded there is an insertion",
            wordless,
            len(references),
            normalizer,
        )
    to_characters = ReduceToListOfListOfChars()
    by_character = is_character_language(language)
    to_words = to_characters if by_character else ReduceToListOfListOfWords()
    words = jiwer.process_words(normal_references, normal_hypotheses, to_words, to_words)
    characters = jiwer.process_characters(
        normal_references, normal_hypotheses, to_characters, to_characters
    )
    num_words = np.array([len(row) for row in words.references])
    num_decoded = np.array([len(row) for row in words.hypotheses])
    errors = np.array([_count_errors(alignment) for alignment in words.alignments])
    too_long = num_decoded > RUNAWAY_MULTIPLE * np.maximum(num_words, RUNAWAY_MIN_WORDS)
    wer_low, wer_high = ratio_interval(errors, num_words)
    return ErrorRates(
        num_utterances=len(references),
        num_words=int(num_words.sum()),
        num_characters=sum(len(row) for row in characters.references),
        wer=float(errors.sum() / num_words.sum()),
        cer=float(characters.cer),
        substitutions=words.substitutions,
        deletions=words.deletions,
        insertions=words.insertions,
        empty=int(((num_decoded == 0) & (num_words > 0)).sum()),
        runaway=int((too_long | np.array(limits, dtype=bool)).sum()),
        wer_low=wer_low,
        wer_high=wer_high,
        unit="character" if by_character else "word",
        normalizer=str(normalizer),
        utterance_errors=tuple(errors.tolist()),
        utterance_words=tuple(num_words.tolist()),
    )


def error_rates_by_language(
    references: Sequence[str],
    hypotheses: Sequence[str],
    languages: Sequence[str],
    *,
    normalizer: Normalizer = BASIC_NORMALIZER,
    hit_limit: Sequence[bool] | None = None,
) -> dict[str, ErrorRates]:
    """Return `error_rates` of each language apart, in the order in which languages first appear.

    Args:
        references: as in `error_rates`, like the next.
        hypotheses: what was decoded.
        languages: language code of each utterance.
        normalizer: as in `error_rates`, like the next.
        hit_limit: which hypotheses reached the token limit.

    """
    limits = [False] * len(references) if hit_limit is None else list(hit_limit)
    rates = {}
    for language in dict.fromkeys(languages):
        rows = [
            row
            for row in zip(references, hypotheses, languages, limits, strict=True)
            if row[2] == language
        ]
        rates[language] = error_rates(
            [row[0] for row in rows],
            [row[1] for row in rows],
            language=language,
            normalizer=normalizer,
            hit_limit=[row[3] for row in rows],
        )
    return rates


def check_references(
    references: Sequence[str],
    languages: Sequence[str],
    *,
    normalizer: Normalizer = BASIC_NORMALIZER,
) -> None:
    """Refuse what `error_rates_by_language` would refuse, before anything is decoded.

    Args:
        references: as in `error_rates_by_language`, like the others.
        languages: language code of each utterance.
        normalizer: brings references to a comparable form.

    Raises:
        ValueError: a language whose references hold no word, named.
    """
    for language in dict.fromkeys(languages):
        found = [
            text for text, other in zip(references, languages, strict=True) if other == language
        ]
        if not any(normalizer(text, language) for text in found):
            raise ValueError(
                f"none of the {len(found)} references in language {language!r} holds a word after "
                f"{normalizer}; expected at least one: leave these rows out, or give their text"
            )


def errors_in_order(
    rates: Mapping[str, ErrorRates], languages: Sequence[str]
) -> tuple[list[int], list[int]]:
    """Errors and reference words of each utterance, from the rates of each language apart.

    Args:
        rates: what `error_rates_by_language` returned for these languages.
        languages: language code of each utterance, in the corpus's order.
    """
    counts = {
        language: iter(zip(rate.utterance_errors, rate.utterance_words, strict=True))
        for language, rate in rates.items()
    }
    pairs = [next(counts[language]) for language in languages]
    return [errors for errors, _ in pairs], [words for _, words in pairs]


def macro_average(values: Iterable[float]) -> float:
    """Return the plain mean, such as of one wer per corpus: each corpus counts the same.

    Raises:
        ValueError: for no value, or one that is not finite.

    """
    numbers = [float(value) for value in values]
    if not numbers or not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"expected at least one value, all finite, received {numbers}")
    return math.fsum(numbers) / len(numbers)


def _count_errors(alignment: Iterable[Any]) -> int:
    """Count the edits of one utterance; a chunk covers as many as its longer side."""
    return sum(
        max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
        for chunk in alignment
        if chunk.type != "equal"
    )
