"""Seams: what both texts have of the overlap stands there once."""

from __future__ import annotations

import pytest

from otreg.transcription.joining import Seam, count_words, join, join_texts

SEAMS = {
    "the same words": ("a b c", "b c d", "a b c d"),
    "words broken at both borders": (
        "one two three fo",
        "wo three four five",
        "one two three four five",
    ),
    "one whole word": ("one two thr", "ne two three", "one two three"),
    "a word that one side misheard": ("a b c d e f", "c x e f g", "a b c d e f g"),
    "a word that one side missed": ("a b c d e f", "c e f g h", "a b c d e f g h"),
    "punctuation and case": ("it was late. So", "Was late, so we left", "it was late. so we left"),
    "marks": ("यह हिन्दी है", "हिन्दी है आज", "यह हिन्दी है आज"),
    "all of the right one": ("a b c d", "c d", "a b c d"),
    "an empty left one": ("", "a b", "a b"),
    "an empty right one": ("a b", "", "a b"),
}


@pytest.mark.parametrize("case", SEAMS)
def test_words_of_the_overlap_stand_there_once(case: str) -> None:
    left, right, expected = SEAMS[case]
    seam = join(left, right, overlap_s=1.5)
    assert join_texts([seam.left, seam.right]) == expected
    assert seam.matched


@pytest.mark.parametrize(
    ("language", "left", "right", "expected"),
    [
        ("zh", "今天天气很好", "气很好,我们去", "今天天气很好,我们去"),
        ("ja", "東京に行きま", "に行きました", "東京に行きました"),
        ("th", "ฉันรักประเทศไทย", "ประเทศไทยมาก", "ฉันรักประเทศไทยมาก"),
        ("zh", "我用 Python", "用 Python 写", "我用 Python写"),
    ],
)
def test_languages_without_spaces_are_aligned_by_characters(
    language, left, right, expected
) -> None:
    seam = join(left, right, overlap_s=1, language=language)
    assert join_texts([seam.left, seam.right], language) == expected
    assert seam.matched


def test_texts_with_nothing_in_common_are_kept_whole_and_it_is_said() -> None:
    assert join("a b c", "x y z", overlap_s=2) == Seam("a b c", "x y z", False)


def test_without_an_overlap_nothing_is_taken_out() -> None:
    assert join("so so", "so so", overlap_s=0) == Seam("so so", "so so", True)


def test_only_as_much_is_compared_as_the_overlap_can_hold() -> None:
    """The right text happens to begin as the left one did ten words ago."""
    left = "the cat sat " + "one two three four five six seven eight"
    right = "seven eight the cat sat down"
    seam = join(left, right, overlap_s=0.5, words_per_s=3)
    assert (seam.left + " " + seam.right).split() == f"{left} the cat sat down".split()


def test_texts_are_put_together_as_the_language_writes_them() -> None:
    assert join_texts(["a", "", "b"], "en") == "a b"
    assert join_texts(["今", "", "天"], "zh") == "今天"
    assert join_texts(["用 OK", "Google 说"], "zh-Hans") == "用 OK Google 说"
    assert join_texts([], "en") == ""


def test_words_are_counted_as_they_are_aligned() -> None:
    assert count_words("don't stop - now") == 4
    assert count_words("今天 OK。", "zh") == 3
    assert count_words("ที่", "th") == 1
