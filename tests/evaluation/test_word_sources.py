from pathlib import Path

import pytest

from otreg.data.manifest import Utterance, Word
from otreg.evaluation.word_sources import compare_sources, evenly


def row(identity: str, *starts_ms: int, words: str = "abcdefgh") -> Utterance:
    times = zip(words, starts_ms, strict=False)
    said = tuple(Word(word, ms / 1000, ms / 1000 + 0.05) for word, ms in times)
    return Utterance(identity, Path("x.wav"), "a b", "en", words=said or None)


EXACT = [row("u", 0, 200, 400, 600), row("v", 0, 100), row("w", 5), row("x")]


def test_each_source_is_judged_on_the_utterances_that_it_has() -> None:
    late = [row("u", 10, 250, 401, 901), row("v", 0, 100, words="az"), row("x", 7), row("y", 1)]
    found = compare_sources(EXACT, {"late": late, "exact": EXACT})
    assert list(found) == ["late", "exact", "even"]
    assert (found["late"]["num_utterances"], found["late"]["num_left_out"]) == (2, 1)
    assert (found["late"]["num_words"], found["late"]["num_matched"]) == (6, 5)  # z is not b
    errors_s = [0.01, 0.05, 0.001, 0.301, 0.0]
    assert found["late"]["start_error_mean_s"] == pytest.approx(sum(errors_s) / 5)
    assert found["late"]["start_error_median_s"] == pytest.approx(0.01)
    assert found["late"]["start_within_50ms"] == pytest.approx(0.8)
    assert found["exact"]["start_error_mean_s"] == found["exact"]["num_left_out"] == 0


def test_words_are_compared_in_the_rows_own_language() -> None:
    heard = {"tr": ("Isı", "ısı"), "en": ("Isı", "isı")}

    def rows(number: int) -> list[Utterance]:
        made = (Word(words[number], 0.0, 0.1) for words in heard.values())
        return [
            Utterance(f"u{i}", None, language=language, words=(word,))
            for i, (language, word) in enumerate(zip(heard, made, strict=True))
        ]

    assert compare_sources(rows(0), {"heard": rows(1)})["heard"]["num_matched"] == 2


def test_the_control_spreads_words_by_their_letters() -> None:
    words = (Word("aa", 1.0, 1.1), Word("b", 1.5, 1.6), Word("c", 1.7, 1.8))
    utterance = Utterance("u", None, words=words)
    spread = evenly(utterance).words
    assert [word.start_s for word in spread] == pytest.approx([1.0, 1.4, 1.6])
    assert [word.end_s for word in spread] == pytest.approx([1.4, 1.6, 1.8])
    assert compare_sources([utterance], {})["even"]["start_error_mean_s"] == pytest.approx(0.2 / 3)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="'other' gives words to none of the 3 utterances"):
        compare_sources(EXACT, {"other": [row("z", 1)]})
    with pytest.raises(ValueError, match="received rows without words"):
        compare_sources([row("x")], {})
    with pytest.raises(ValueError, match="'even' is the control's name"):
        compare_sources(EXACT, {"even": EXACT})
