"""Joining the texts of neighbouring chunks, so that what both heard stands there once."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from otreg.languages import is_character_language

_WORDS_PER_S = 5.0  # fast speech; bounds what an overlap may hold
_CHARACTERS_PER_S = 12.0
_BROKEN = 2  # a word that the chunk's border cuts, on either side


@dataclass(frozen=True)
class Seam:
    """Two neighbouring texts after joining.

    Args:
        left: what is kept of the first.
        right: what is kept of the second; one after the other they are the text.
        matched: whether words that both heard were found. If not, both texts are kept whole, so
            what was said in the overlap may stand there twice, and nothing is lost.

    """

    left: str
    right: str
    matched: bool


def join(
    left: str,
    right: str,
    *,
    overlap_s: float,
    language: str = "",
    words_per_s: float | None = None,
) -> Seam:
    """Take out of two texts what both have of the sound that they share.

    The end of the left text is aligned with the start of the right one: of all pairs of an end of
    i words and a start of j words, the pair with the most in common, i + j - 2 d, where d is their
    Levenshtein distance; less half of |i + j - 2 e| where e, the number of words to expect, is
    known. The cut lies at the middle one of the words on which both agree: before it the left text is
    right, for it heard them whole; after it the right one.

    Where an overlap holds nothing but one word said several times over, it cannot be seen how often
    it was said; it is then kept as often as it was in the text that has it more often.

    Args:
        left: what was recognised in a chunk.
        right: what was recognised in the next one.
        overlap_s: sound that both share, in seconds; 0 = the texts are kept as they are.
        language: code; in languages without spaces characters are aligned in place of words.
        words_per_s: how fast these two were spoken (characters a second, in languages without
            spaces); an overlap holds at most half as many more. None = as fast as one can speak.

    Returns:
        What is kept of both.

    Example:
        >>> join("it rains in the mou", "n the mountains today", overlap_s=2.0)
        Seam(left='it rains in the', right='mountains today', matched=True)
    """
    from rapidfuzz.distance import Levenshtein

    by_character = is_character_language(language)
    rate = _CHARACTERS_PER_S if by_character else _WORDS_PER_S
    if words_per_s is not None:
        rate = min(rate, 1.5 * words_per_s)
    most = math.ceil(rate * overlap_s) + _BROKEN
    spans = [_tokens(text, by_character) for text in (left, right)]
    tail, head = spans[0][-most:], spans[1][:most]
    if overlap_s <= 0 or not tail or not head:
        return Seam(left.strip(), right.strip(), True)
    ends = [_key(left[start:end]) for start, end in tail]
    starts = [_key(right[start:end]) for start, end in head]

    def score(i: int, j: int) -> float:
        unlike = Levenshtein.distance(ends[-i:], starts[:j])
        unexpected = 0.0 if words_per_s is None else abs(i + j - 2 * words_per_s * overlap_s)
        return i + j - 2 * unlike - unexpected / 2

    pairs = [(i, j) for i in range(1, len(ends) + 1) for j in range(1, len(starts) + 1)]
    i, j = max(pairs, key=lambda pair: (score(*pair), -abs(pair[0] - pair[1]), -pair[0]))
    agreed = [
        (len(ends) - i + block.a + step, block.b + step)
        for block in Levenshtein.editops(ends[-i:], starts[:j]).as_matching_blocks()
        for step in range(block.size)
    ]
    if score(i, j) <= 0 or not agreed:
        return Seam(left.strip(), right.strip(), False)
    last, first = agreed[len(agreed) // 2]
    return Seam(left[: tail[last][1]].strip(), right[head[first][1] :].strip(), True)


def join_texts(texts: Sequence[str], language: str = "") -> str:
    """Put texts one after the other, with a space between them where the language has spaces.

    Args:
        texts: in order; empty ones add nothing.
        language: code.

    Returns:
        One text.

    Example:
        >>> join_texts(["今天", "", "下雨"], "zh")
        '今天下雨'
    """
    by_character = is_character_language(language)
    joined = ""
    for text in texts:
        latin = bool(joined and text) and all(
            c.isascii() and c.isalnum() for c in joined[-1] + text[0]
        )
        joined += " " if joined and text and (latin or not by_character) else ""
        joined += text
    return joined


def count_words(text: str, language: str = "") -> int:
    """How many words a text has; characters, in languages without spaces."""
    return len(_tokens(text, is_character_language(language)))


def _tokens(text: str, by_character: bool) -> list[tuple[int, int]]:
    """[start, end) of the words, or of the characters with their marks; Latin words stay whole."""
    spans: list[tuple[int, int]] = []
    for index, character in enumerate(text):
        if character.isspace():
            continue
        follows = bool(spans) and spans[-1][1] == index
        if by_character:
            before = text[index - 1]
            latin = all(c.isascii() and c.isalnum() for c in (before, character))
            # A mark belongs to its letter, punctuation to what stands before it.
            follows = follows and (latin or not character.isalnum())
        if follows:
            spans[-1] = (spans[-1][0], index + 1)
        else:
            spans.append((index, index + 1))
    return spans


def _key(token: str) -> str:
    """What two spellings of a word have in common: letters, marks and digits in one case."""
    plain = unicodedata.normalize("NFKC", token).casefold()
    kept = "".join(c for c in plain if unicodedata.category(c)[0] in "LMN")
    return kept or plain
