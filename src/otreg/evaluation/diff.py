"""Which words of a hypothesis differ from the reference, for showing examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from otreg.evaluation.wer import normalize_text
from otreg.languages import is_character_language

Kind: TypeAlias = Literal["equal", "substitution", "deletion", "insertion"]
Step: TypeAlias = tuple[Kind, int | None, int | None]


@dataclass(frozen=True)
class Edit:
    """One word of the alignment; `text` is as written, empty on the side that lacks it."""

    kind: Kind
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
    pairs = align_sequences(
        [normalize_text(word, language) for word in ref],
        [normalize_text(word, language) for word in hyp],
    )
    return [
        Edit(kind, "" if i is None else ref[i], "" if j is None else hyp[j]) for kind, i, j in pairs
    ]


def align_sequences(left: Sequence[str], right: Sequence[str]) -> list[Step]:
    """Align two sequences with the fewest edits: (kind, position in left, position in right).

    Where several alignments have the fewest edits, a substitution is preferred to a deletion and a
    deletion to an insertion, from the end on. The side that lacks an item has None.
    """
    costs = [list(range(len(right) + 1))]  # costs[i][j]: edits from the first i to the first j
    for i, a in enumerate(left, start=1):
        row = [i]
        for j, b in enumerate(right, start=1):
            row.append(min(costs[-1][j - 1] + (a != b), costs[-1][j] + 1, row[-1] + 1))
        costs.append(row)
    steps: list[Step] = []
    i, j = len(left), len(right)
    while i or j:
        here = costs[i][j]
        if i and j and here == costs[i - 1][j - 1] + (left[i - 1] != right[j - 1]):
            i, j = i - 1, j - 1
            steps.append(("equal" if left[i] == right[j] else "substitution", i, j))
        elif i and here == costs[i - 1][j] + 1:
            i -= 1
            steps.append(("deletion", i, None))
        else:
            j -= 1
            steps.append(("insertion", None, j))
    return steps[::-1]


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
