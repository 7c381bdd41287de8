"""Splitting long utterances between their words, so that each piece keeps its own transcript."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from otreg.data.audio import audio_info
from otreg.data.interleave import text_pieces
from otreg.data.segments import row_of
from otreg.data.utterance import Utterance, Word

_ROUNDING_S = 0.001  # the ends of a piece are rounded to samples, and must not pass the limit


@dataclass(frozen=True)
class Piece:
    """A piece of an utterance.

    Args:
        first: number of its first word.
        last: number of the word after its last.
        start_s: in seconds from the start of the utterance.
        end_s: likewise.

    """

    first: int
    last: int
    start_s: float
    end_s: float


class CannotSplitError(ValueError):
    """An utterance that is too long and cannot be split.

    Args:
        reason: its kind in a few words.
        detail: what is wrong with this one, and the remedy.

    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def word_pieces(utterance: Utterance, max_s: float) -> list[Piece]:
    """Where to cut an utterance between its words; it reads the header of its audio.

    A piece ends in the longest pause of those in its second half, at the middle of it. Every word
    is in one piece, whole. Of a pause longer than half of max_s each side keeps a quarter of max_s,
    and what lies between is in no piece; so it is before the first word and after the last.

    Args:
        utterance: with words, where it is longer than max_s. Of a conversation all clips have to be
            short enough.
        max_s: longest piece, in seconds.

    Returns:
        The pieces in order; none where the utterance is short enough as it is, or has no audio.

    Raises:
        AudioError: audio that cannot be used.
        CannotSplitError: a conversation, words that are missing, are not those of the text or
            leave no place to cut.

    """
    if not 0 < max_s < float("inf"):
        raise ValueError(f"max_s must be above 0, received {max_s:g}")
    clips = row_of(utterance).clips if utterance.messages is not None else [utterance]
    lengths_s = [audio_info(clip, max_duration_s=float("inf")).duration_s for clip in clips]
    duration_s = max(lengths_s, default=0.0)
    if duration_s <= max_s:
        return []
    words = _words(utterance, duration_s, max_s)
    most_s, margin_s = max_s - _ROUNDING_S, max_s / 4
    pieces = []
    first, start_s = 0, max(0.0, words[0].start_s - margin_s)
    while first < len(words):
        last = _last_word(words, first, start_s + most_s, utterance, max_s)
        spoken_s = words[last - 1].end_s
        if last < len(words):
            middle_s = (spoken_s + words[last].start_s) / 2
            following_s = max(middle_s, words[last].start_s - margin_s)
        else:
            middle_s = following_s = duration_s
        end_s = min(middle_s, spoken_s + margin_s, start_s + most_s)
        pieces.append(Piece(first, last, start_s, end_s))
        first, start_s = last, following_s
    return pieces


def cut(utterance: Utterance, pieces: Sequence[Piece]) -> list[Utterance]:
    """The pieces of an utterance as utterances of their own.

    Args:
        utterance: from `word_pieces`' argument.
        pieces: from `word_pieces`; none = the utterance stays as it is.

    Returns:
        Utterances "ID#1", "ID#2", … with their words, whose times count from their own start.

    """
    if not pieces:
        return [utterance]
    assert utterance.words is not None
    texts = text_pieces(utterance)
    offset_s = utterance.start_s or 0.0
    return [
        dataclasses.replace(
            utterance,
            id=f"{utterance.id}#{number}",
            text="".join(texts[piece.first : piece.last]).strip(),
            start_s=_rounded(offset_s + piece.start_s),
            end_s=_rounded(offset_s + piece.end_s),
            words=tuple(
                Word(
                    word.word,
                    _rounded(word.start_s - piece.start_s),
                    _rounded(word.end_s - piece.start_s),
                )
                for word in utterance.words[piece.first : piece.last]
            ),
        )
        for number, piece in enumerate(pieces, 1)
    ]


def _words(utterance: Utterance, duration_s: float, max_s: float) -> tuple[Word, ...]:
    """The words to cut between."""
    long = f"it lasts {duration_s:.2f} s, above {max_s:g} s, and "
    if utterance.messages is not None:
        raise CannotSplitError(
            "a conversation",
            f"{long}a conversation cannot be split with its answers; shorten it by hand, or leave it "
            "out",
        )
    if utterance.words is None:
        raise CannotSplitError(
            "no words",
            f"{long}without words (when each is said) its transcript cannot be split with it; make "
            "them with `otreg prepare words`",
        )
    try:
        text_pieces(utterance)
    except ValueError as error:
        raise CannotSplitError("words unlike the text", f"{long}{error}") from error
    return utterance.words


def _last_word(
    words: Sequence[Word], first: int, until_s: float, utterance: Utterance, max_s: float
) -> int:
    """The word before which a piece ends, all of whose words have to end by until_s."""
    if words[-1].end_s <= until_s:
        return len(words)
    half_s = (words[first].start_s + until_s) / 2
    places = []
    for last in range(first + 1, len(words)):
        spoken_s = words[last - 1].end_s
        if spoken_s > until_s:
            break
        pause_s = words[last].start_s - spoken_s
        if pause_s >= 0:
            is_late = spoken_s > half_s
            places.append((is_late, pause_s if is_late else 0.0, last))
    if not places:
        raise CannotSplitError(
            "no place to cut",
            f"around {words[first].start_s:.2f} s no place between two words lets a piece last at "
            f"most {max_s:g} s; allow longer pieces, or correct its words",
        )
    return max(places)[2]


def _rounded(seconds: float) -> float:
    return round(seconds, 6)
