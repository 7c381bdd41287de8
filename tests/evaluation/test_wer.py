import doctest
import subprocess
import sys
import unicodedata

import jiwer
import numpy as np
import pytest

from otreg.evaluation import bootstrap, wer
from otreg.evaluation.wer import (
    BASIC_NORMALIZER,
    Normalizer,
    error_rates,
    error_rates_by_language,
    errors_in_order,
    macro_average,
    normalize_text,
)
from otreg.languages import is_character_language

HINDI = "नमस्ते, आप कैसे हैं? क्षेत्र में ज़्यादा श्रीमती।"
TAMIL = "வணக்கம், நீங்கள் எப்படி இருக்கிறீர்கள்? ஸ்ரீ கொழும்பு!"
BENGALI = "আমি বাংলায় কথা বলি।"


def edit_distance(reference, hypothesis):
    """A plain dynamic programme, as an oracle."""
    row = list(range(len(hypothesis) + 1))
    for i, left in enumerate(reference, start=1):
        previous, row[0] = row[0], i
        for j, right in enumerate(hypothesis, start=1):
            previous, row[j] = (
                row[j],
                min(row[j] + 1, row[j - 1] + 1, previous + (left != right)),
            )
    return row[-1]


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("Hello, WORLD! It's -- fine.", "en", "hello world it's fine"),
        ("don’t DON`T don´t donʼt", "en", "don't don't don't don't"),
        ("'tis the dogs' rock'n'roll 'quoted'", "en", "tis the dogs rock'n'roll quoted"),
        ("co-operate e-mail/fax snake_case", "en", "co operate e mail fax snake case"),
        ("½ ２０ ﬁne №5 €3.50 50%", "en", "1 2 20 fine no5 3 50 50"),
        ("Straße ÜBER Éte\u0301", "de", "straße über été"),
        ("soft\u00adhyphen a\u200bb \ufeffword\u200f", "en", "softhyphen a b word"),
        ("🙂 ok 🙂", "en", "ok"),
        ("\u00a8 ¨ a ¨", "en", "a"),
        ("IŞIK İzmir", "tr", "ışık izmir"),
        ("IŞIK", "en", "işik"),
        ("ΟΔΟΣ", "el", "οδος"),
        ("我用 iPhone，很好。", "zh", "我用iphone很好"),
        ("สวัสดี ครับ", "th", unicodedata.normalize("NFKC", "สวัสดีครับ")),
        ("?!…", "en", ""),
        ("", "en", ""),
    ],
)
def test_normalised_text(text, language, expected):
    assert normalize_text(text, language) == expected


@pytest.mark.parametrize(("text", "language"), [(HINDI, "hi"), (TAMIL, "ta"), (BENGALI, "bn")])
def test_indic_scripts_keep_every_letter_and_mark(text, language):
    def letters(string):
        string = unicodedata.normalize("NFKC", string)
        return [c for c in string if unicodedata.category(c)[0] in "LM"]

    result = normalize_text(text, language)
    assert letters(result) == letters(text)
    assert any(unicodedata.category(c) == "Mn" for c in result)
    assert any(unicodedata.category(c) == "Mc" for c in result)
    assert len(result.split()) == len(text.split())


def test_a_wrong_vowel_sign_is_an_error():
    rates = error_rates(["किताब की"], ["किताब का"], language="hi")
    assert (rates.substitutions, rates.num_words) == (1, 2)


def test_invisible_joiners_make_no_error():
    rates = error_rates(["क\u094d\u200dष"], ["क\u094dष"], language="hi")
    assert rates.wer == 0


@pytest.mark.parametrize(
    "text", [HINDI, TAMIL, BENGALI, "Don’t—STOP ½ İ ﬁ 我 สวัสดี", "a''b 'c' ´d", "e\u200d\u0301x"]
)
def test_normalising_twice_changes_nothing(text):
    for language in ("en", "hi", "zh", "tr"):
        once = normalize_text(text, language)
        assert normalize_text(once, language) == once


def test_composed_and_decomposed_text_are_equal():
    for text in (HINDI, TAMIL, "é ü ñ", "한국어"):
        for form in ("NFC", "NFD", "NFKD"):
            assert normalize_text(unicodedata.normalize(form, text), "x") == normalize_text(
                text, "x"
            )


def test_counts_equal_a_plain_dynamic_programme():
    rng = np.random.default_rng(0)
    references = [" ".join(rng.choice(list("abcd"), rng.integers(1, 9))) for _ in range(60)]
    hypotheses = [" ".join(rng.choice(list("abcd"), rng.integers(0, 9))) for _ in range(60)]
    rates = error_rates(references, hypotheses, language="en")
    pairs = list(zip(references, hypotheses, strict=True))
    errors = sum(edit_distance(r.split(), h.split()) for r, h in pairs)
    assert rates.substitutions + rates.deletions + rates.insertions == errors
    assert rates.num_words == sum(len(r.split()) for r in references)
    assert rates.wer == errors / rates.num_words == pytest.approx(jiwer.wer(references, hypotheses))
    characters = sum(edit_distance(r, h) for r, h in pairs)
    assert rates.cer == pytest.approx(characters / sum(map(len, references)))
    assert rates.num_utterances == 60
    assert rates.unit == "word"


def test_each_kind_of_error_is_counted_apart():
    rates = error_rates(["a b c", "d e", "f"], ["a x c", "d", "f g h"], language="en")
    assert (rates.substitutions, rates.deletions, rates.insertions) == (1, 1, 2)
    assert rates.wer == 4 / 6


@pytest.mark.parametrize("language", ["zh", "zh-CN", "ja", "th", "lo", "km", "my", "yue", "JA_jp"])
def test_characters_are_the_words_where_words_are_not_written_apart(language):
    assert is_character_language(language)
    rates = error_rates(["你好 世界。"], ["你 好世"], language=language)
    assert (rates.num_words, rates.deletions, rates.unit) == (4, 1, "character")
    assert rates.wer == rates.cer == 0.25


@pytest.mark.parametrize("language", ["en", "ko", "hi", "vi", "zhx", ""])
def test_elsewhere_words_are_words(language):
    assert not is_character_language(language)


def test_empty_and_runaway_outputs_are_counted():
    references = ["one two", "three", "four five six", "seven", "eight", "?"]
    hypotheses = ["", "...", "x " * 11, "x " * 10, "eight", ""]
    rates = error_rates(
        references, hypotheses, language="en", hit_limit=[False] * 4 + [True, False]
    )
    assert rates.empty == 2
    assert rates.runaway == 2


def test_a_reference_without_words_is_reported_and_counts_insertions(caplog):
    rates = error_rates(["?", "a"], ["b c", "a"], language="en")
    assert (rates.insertions, rates.num_words, rates.wer) == (2, 1, 2.0)
    assert "1 of 2 references hold no word after otreg-basic/2" in caplog.text


def test_the_interval_holds_the_rate_narrows_and_repeats():
    rng = np.random.default_rng(0)

    def rates(size):
        hypotheses = ["a b" if rng.random() < 0.7 else "a x" for _ in range(size)]
        return error_rates(["a b"] * size, hypotheses, language="en")

    small, large = rates(50), rates(2000)
    for item in (small, large):
        assert item.wer_low < item.wer < item.wer_high
    assert large.wer_high - large.wer_low < (small.wer_high - small.wer_low) / 3
    # The normal interval of a binomial; one wrong word is half of an utterance's two.
    width = 2 * 1.96 * np.sqrt(0.3 * 0.7 / 2000) / 2
    assert large.wer_high - large.wer_low == pytest.approx(width, rel=0.12)
    again = error_rates(["a b", "c d"] * 9, ["a b", "c x"] * 9, language="en")
    assert again == error_rates(["a b", "c d"] * 9, ["a b", "c x"] * 9, language="en")


def test_the_interval_does_not_depend_on_the_block_size(monkeypatch):
    arguments = (["a b", "c d", "e"] * 5, ["a b", "c x", "f"] * 5)
    whole = error_rates(*arguments, language="en")
    monkeypatch.setattr(bootstrap, "_BLOCK", 40)
    assert error_rates(*arguments, language="en") == whole


def test_the_normaliser_is_recorded_and_can_be_another():
    assert error_rates(["A"], ["a"], language="en").normalizer == str(BASIC_NORMALIZER)
    raw = Normalizer("raw", "7", lambda text, language: text)
    rates = error_rates(["A"], ["a"], language="en", normalizer=raw)
    assert (rates.wer, rates.normalizer) == (1.0, "raw/7")


def test_rates_by_language_are_those_of_each_language_alone():
    references = ["a b", "你好", "c", "世界"]
    hypotheses = ["a", "你", "d", "世界"]
    rates = error_rates_by_language(
        references, hypotheses, ["en", "zh", "en", "zh"], hit_limit=[False, True, False, False]
    )
    assert list(rates) == ["en", "zh"]
    assert rates["en"] == error_rates(["a b", "c"], ["a", "d"], language="en")
    assert rates["zh"].runaway == 1
    assert rates["zh"].num_words == 4
    errors, words = errors_in_order(rates, ["en", "zh", "en", "zh"])
    assert (errors, words) == ([1, 1, 1, 0], [2, 2, 1, 2])
    unlimited = error_rates_by_language(references, hypotheses, ["en", "zh", "en", "zh"])
    assert {rate.runaway for rate in unlimited.values()} == {0}


def test_macro_average_counts_each_value_the_same():
    assert macro_average([0.1, 0.3, 0.8]) == pytest.approx(0.4)
    for bad in ([], [0.1, float("nan")]):
        with pytest.raises(ValueError, match="at least one value, all finite"):
            macro_average(bad)


@pytest.mark.parametrize(
    ("references", "hypotheses", "message"),
    [
        (["a"], ["a", "b"], "1 references, 2 hypotheses"),
        ([], [], "none of the 0 references holds a word"),
        (["?", " "], ["a", "b"], "none of the 2 references holds a word after otreg-basic/2"),
    ],
)
def test_what_gives_no_rate_is_refused(references, hypotheses, message):
    with pytest.raises(ValueError, match=message):
        error_rates(references, hypotheses, language="en")


def test_the_dict_holds_every_field():
    fields = error_rates(["a b"], ["a c"], language="en").as_dict()
    for key in ("num_utterances", "num_words", "wer", "cer", "wer_low", "wer_high", "normalizer"):
        assert key in fields
    assert fields["substitutions"] == 1
    assert fields["num_characters"] == 3
    assert not any(name.startswith("utterance") for name in fields)


def test_importing_imports_no_jiwer():
    code = "import sys, otreg.evaluation.wer; print('jiwer' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"


def test_the_examples_in_docstrings_hold():
    result = doctest.testmod(wer)
    assert result.attempted > 0
    assert result.failed == 0
