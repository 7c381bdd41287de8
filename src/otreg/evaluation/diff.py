"""Which words of a hypothesis differ from the reference, for showing examples."""

from dataclasses import dataclass
from typing import Literal

from otreg.evaluation.wer import is_character_language, normalize_text


@dataclass(frozen=True)
class Edit:
    """One word of the alignment; `text` is as written, empty on the side that lacks it."""

    kind: Literal["equal", "substitution", "deletion", "insertion"]
    reference: str
    hypothesis: str


def align_words(reference: str, hypothesis: str, language: str) -> list[Edit]:
    """Align two transcripts with the fewest edits, words compared as the error rates compare them.

    Characters are aligned where characters are the words. Where several alignments have the fewest
    edits, a substitution is preferred to a deletion and a deletion to an insertion.

    Args:
        reference: what was said.
        hypothesis: what was decoded.
        language: language code; decides what a word is and how it is normalised.
    """
    ref, hyp = _words(reference, language), _words(hypothesis, language)
    left = [normalize_text(word, language) for word in ref]
    right = [normalize_text(word, language) for word in hyp]
    costs = [list(range(len(hyp) + 1))]  # costs[i][j]: edits from the first i to the first j words
    for i, a in enumerate(left, start=1):
        row = [i]
        for j, b in enumerate(right, start=1):
            row.append(min(costs[-1][j - 1] + (a != b), costs[-1][j] + 1, row[-1] + 1))
        costs.append(row)
    edits: list[Edit] = []
    i, j = len(ref), len(hyp)
    while i or j:
        here = costs[i][j]
        if i and j and here == costs[i - 1][j - 1] + (left[i - 1] != right[j - 1]):
            kind: Literal["equal", "substitution"]
            kind = "equal" if left[i - 1] == right[j - 1] else "substitution"
            edits.append(Edit(kind, ref[i - 1], hyp[j - 1]))
            i, j = i - 1, j - 1
        elif i and here == costs[i - 1][j] + 1:
            edits.append(Edit("deletion", ref[i - 1], ""))
            i -= 1
        else:
            edits.append(Edit("insertion", "", hyp[j - 1]))
            j -= 1
    return edits[::-1]


def _words(text: str, language: str) -> list[str]:
    """The words as written; what the normaliser leaves nothing of joins the word before it."""
    pieces = list("".join(text.split())) if is_character_language(language) else text.split()
    gap = "" if is_character_language(language) else " "
    words: list[str] = []
    for piece in pieces:
        if words and not normalize_text(piece, language):
            words[-1] += gap + piece
        else:
            words.append(piece)
    return words
