"""Splitting at words: every word once, in its own piece, at its own place in the file."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from otreg.data.manifest import read_manifest, write_manifest
from otreg.data.splitting import CannotSplitError, cut, word_pieces
from otreg.data.utterance import Utterance, Word


@pytest.fixture
def talk(tmp_path: Path) -> Utterance:
    """Forty words in 50 s, from second 5 of a file of 60 s."""
    soundfile.write(tmp_path / "a.wav", np.zeros(60 * 1000), 1000)
    rng = np.random.default_rng(0)
    words, at = [], 0.3
    for number in range(40):
        end = at + float(rng.uniform(0.2, 0.9))
        words.append(Word(f"w{number}", round(at, 4), round(end, 4)))
        at = end + float(rng.choice([0, 0.05, 0.6, 1.4]))
    assert at < 50
    text = " ".join(f"{word.word}{',' if n % 5 == 2 else ''}" for n, word in enumerate(words)) + "."
    return Utterance(
        "talk", tmp_path / "a.wav", text, "en", "s1", 5.0, 55.0, tuple(words), attributes={"a": 1}
    )


@pytest.mark.parametrize("max_s", [2.5, 4, 9.7, 20, 49])
def test_every_word_is_in_one_piece_where_it_was(talk: Utterance, max_s: float, tmp_path) -> None:
    pieces = cut(talk, word_pieces(talk, max_s))
    assert [piece.id for piece in pieces] == [f"talk#{n}" for n in range(1, len(pieces) + 1)]
    assert " ".join(piece.text for piece in pieces) == talk.text
    found = [
        (word.word, piece.start_s + word.start_s, piece.start_s + word.end_s)
        for piece in pieces
        for word in piece.words
    ]
    expected = [(word.word, 5 + word.start_s, 5 + word.end_s) for word in talk.words]
    assert [word for word, _, _ in found] == [word for word, _, _ in expected]
    times = [time for _, *times in found for time in times]
    assert times == pytest.approx([time for _, *times in expected for time in times], abs=1e-5)
    for piece in pieces:
        assert piece.end_s - piece.start_s <= max_s
        assert [word.word for word in piece.words] == piece.text.replace(",", "").rstrip(
            "."
        ).split()
        assert (piece.speaker, piece.attributes, piece.audio) == ("s1", {"a": 1}, talk.audio)
    assert all(one.end_s <= two.start_s for one, two in pairwise(pieces))
    write_manifest(tmp_path / "m.jsonl", pieces)  # checks words against spans
    assert read_manifest(tmp_path / "m.jsonl") == pieces


def test_pieces_end_in_the_longest_pause_of_their_second_half(talk: Utterance) -> None:
    words = [Word(f"w{n}", float(n), n + 0.9) for n in range(30)]
    words = [replace(w, start_s=w.start_s + 0.6) if w.word == "w7" else w for w in words]
    row = replace(talk, words=tuple(words), text=" ".join(w.word for w in words))
    first = word_pieces(row, 10)[0]
    assert (first.first, first.last) == (0, 7)
    assert first.end_s == pytest.approx((6.9 + 7.6) / 2)


def test_of_long_silence_only_the_edges_are_kept(talk: Utterance) -> None:
    words = (Word("a", 20.0, 21.0), Word("b", 30.0, 31.0))
    one, two = cut(
        *(lambda row: (row, word_pieces(row, 8)))(replace(talk, words=words, text="a b"))
    )
    assert (one.start_s, one.end_s) == (23, 28)  # 5 + 20 - 2, 5 + 21 + 2
    assert (two.start_s, two.end_s) == (33, 38)


def test_what_is_short_enough_stays_as_it_is(talk: Utterance) -> None:
    assert cut(talk, word_pieces(talk, 50)) == [talk]
    no_words = replace(talk, words=None)
    assert cut(no_words, word_pieces(no_words, 50)) == [no_words]
    text = Utterance("t", None, messages=({"role": "user", "content": ()},))
    assert word_pieces(text, 1) == []


REFUSED = {
    "no words": ({"words": None}, "otreg prepare words"),
    "other words": ({"text": "entirely other"}, "its words are not the words of its text"),
    "one endless word": ({"words": (Word("w", 0.0, 40.0),), "text": "w"}, "no place between two"),
    "words that overlap": (
        {"words": (Word("a", 0.0, 30.0), Word("b", 2.0, 31.0)), "text": "a b"},
        "at most 20 s; allow longer pieces",
    ),
    "a conversation": (
        {"messages": ({"role": "user", "content": ({"type": "audio"},)},)},
        "a conversation cannot be split",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_split_is_refused_with_a_remedy(talk: Utterance, case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(CannotSplitError, match=message):
        word_pieces(replace(talk, **changes), 20)


def test_no_length_is_refused(talk: Utterance) -> None:
    with pytest.raises(ValueError, match="max_s must be above 0"):
        word_pieces(talk, 0)
