"""Transcripts as words and as labels that an aligner places, and words' times from labels' frames."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from otreg.data.manifest import Word
from otreg.languages import is_character_language
from otreg.prepare.program import Unusable

ANY = -1  # the label of a character that the vocabulary lacks: any character may stand there

Span = tuple[int, int]


@dataclass(frozen=True)
class Label:
    """One label of an aligner and the characters of the text, [start, end), that it stands for.

    A label between words, such as a word delimiter, stands for none: start = end.
    """

    id: int
    start: int
    end: int


def word_spans(text: str, language: str = "") -> list[Span]:
    """Cut a text into words: at white space, in languages without it into characters.

    What holds neither letter nor digit, such as a lone dash, belongs to the word before it, at the
    start of the text to the word after it.

    Returns:
        [start, end) of each word in the text. Only white space lies between words.

    Example:
        >>> text = "yes - no, no"
        >>> [text[start:end] for start, end in word_spans(text)]
        ['yes -', 'no,', 'no']
    """
    by_character = is_character_language(language)
    pieces: list[Span] = []
    for index, character in enumerate(text):
        if character.isspace():
            continue
        inside = index > 0 and not text[index - 1].isspace()
        if pieces and inside and not by_character:
            pieces[-1] = (pieces[-1][0], index + 1)
        else:
            pieces.append((index, index + 1))
    words: list[Span] = []
    waiting: int | None = None  # the start of a piece without letters that opens the text
    for start, end in pieces:
        if not any(character.isalnum() for character in text[start:end]):
            if words:
                words[-1] = (words[-1][0], end)
            elif waiting is None:
                waiting = start
            continue
        words.append((start if waiting is None else waiting, end))
        waiting = None
    if waiting is not None:
        words.append((waiting, pieces[-1][1]))
    return words


def spell(
    text: str, vocabulary: Mapping[str, int], delimiter: str | None, unknown: str = "refuse"
) -> list[Label]:
    """Spell a text in the characters of a CTC model.

    A character that the vocabulary lacks is tried in lower and upper case. Punctuation that is then
    still unknown is passed over, for nobody says it.

    Args:
        text: the transcript.
        vocabulary: character -> id.
        delimiter: the vocabulary's sign between words; None = it has none.
        unknown: what to do with unknown letters and digits: "refuse", or "any": let any character
            of the model stand in their place.

    Returns:
        The labels in order.

    Raises:
        Unusable: unknown letters or digits, or nothing to align.
    """
    labels: list[Label] = []
    for index, character in enumerate(text):
        if character.isspace():
            opens = not labels or labels[-1].start == labels[-1].end
            if delimiter is not None and delimiter in vocabulary and not opens:
                labels.append(Label(vocabulary[delimiter], index, index))
            continue
        ids = _ids(character, vocabulary)
        if ids is None and unicodedata.category(character)[0] in "LN":
            if unknown == "refuse":
                raise Unusable(
                    "a character that the CTC model does not know",
                    f"the CTC model does not know the character {character!r} of {text!r}; write "
                    "it out in its letters, or give --unknown any",
                )
            ids = [ANY]
        labels += [Label(number, index, index + 1) for number in ids or ()]
    while labels and labels[-1].start == labels[-1].end:
        labels.pop()
    if not labels:
        raise Unusable("nothing to align", f"no character of {text!r} is known to the CTC model")
    return labels


def token_labels(tokenizer: Any, text: str, ids: Sequence[int] | None = None) -> list[Label]:
    """The tokens of a text and the characters that each stands for, white space left out.

    Args:
        tokenizer: a fast one of Hugging Face, which knows offsets.
        text: the transcript.
        ids: the tokens as the model saw them, which must be the tokenizer's; None = not checked.

    Returns:
        One label a token, in order.

    Raises:
        ValueError: the tokenizer knows no offsets, or gives other tokens.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"{type(tokenizer).__name__} does not say which characters a token stands for; take a "
            "fast tokenizer (tokenizer.json)"
        )
    encoded = tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True
    )
    if ids is not None and list(ids) != encoded["input_ids"]:
        raise ValueError(f"the tokens of {text!r} are not those of the tokenizer alone")
    labels = []
    for number, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        while start < end and text[start].isspace():
            start += 1
        while start < end and text[end - 1].isspace():
            end -= 1
        labels.append(Label(number, start, end))
    return labels


def word_times(
    text: str,
    words: Sequence[Span],
    labels: Sequence[Label],
    frames: np.ndarray,
    frame_s: float,
    duration_s: float,
) -> list[Word]:
    """Times of words from the frames of their labels.

    A label's time is shared evenly by its characters; a word starts with its first character that
    has a time and ends with its last.

    Args:
        text: the transcript.
        words: from `word_spans`.
        labels: in order.
        frames: (labels, 2) the first frame of each label and the one after its last.
        frame_s: seconds a frame.
        duration_s: of the utterance; no word ends later.

    Returns:
        The words in order, times in seconds to four decimals.

    Raises:
        Unusable: a word has no label.
    """
    start_s = np.full(len(text), np.inf)
    end_s = np.full(len(text), -np.inf)
    for label, (first, after) in zip(labels, frames, strict=True):
        edges = np.linspace(first, after, label.end - label.start + 1) * frame_s
        for place, index in enumerate(range(label.start, label.end)):
            start_s[index] = min(start_s[index], edges[place])
            end_s[index] = max(end_s[index], edges[place + 1])
    times = []
    for start, end in words:
        word = text[start:end]
        if not np.isfinite(start_s[start:end].min()):
            raise Unusable("a word without labels", f"nothing of the word {word!r} can be aligned")
        begin = round(float(start_s[start:end].min()), 4)
        finish = round(min(float(end_s[start:end].max()), duration_s), 4)
        times.append(Word(word, begin, finish))
    if any(word.end_s <= word.start_s for word in times):
        raise Unusable("a word without time", f"{text!r} has more characters than time for them")
    return times


def _ids(character: str, vocabulary: Mapping[str, int]) -> list[int] | None:
    """The ids of a character in the case that the vocabulary has; None where it has neither."""
    forms = (character, character.lower(), character.upper())
    for form in (*forms, unicodedata.normalize("NFKC", character)):
        if all(part in vocabulary for part in form):
            return [vocabulary[part] for part in form]
    return None
