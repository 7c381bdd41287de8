"""The toy language: a function of the sentence, with words and an order of its own."""

import pytest

from otreg.synthetic.sentences import FAMILIES, sentences, vocabulary
from otreg.synthetic.translation import OBJECT, QUESTION, SUBJECT, toy_words, translate


def by_word(text: str) -> str:
    """A translation with each toy word replaced by its English one."""
    english = {toy: word for word, toy in toy_words().items()}
    return " ".join(english.get(word, word) for word in translate(text).split())


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("anna found the red lamp", "anna ga lamp red wo found"),
        ("on monday my sister walks early", "sister my ga monday on early walks"),
        ("my uncle sold three horses", "uncle my ga horses three wo sold"),
        ("the green hammer is in the kitchen", "hammer green ga kitchen in is"),
        ("in spring anna sold bread and tea", "anna ga spring in bread tea and wo sold"),
        ("the lamp of peter is not red", "lamp peter of ga red is not"),
        ("there was fog on the bridge on monday", "fog ga bridge on monday on was there"),
        ("does anna need the red lamp in spring", "anna ga spring in lamp red wo need does ka"),
        ("why is the lamp so cheap on monday", "lamp ga monday on cheap is why so ka"),
        ("the soup at the station is cold and salty", "soup ga station at cold salty and is"),
        ("never anna found the red lamp", "never anna ga lamp red wo found"),
        ("please put the red lamp on the bridge", "lamp red ga bridge on put please"),
    ],
)
def test_the_order_is_the_toy_languages(text, order):
    assert by_word(text) == order


@pytest.mark.parametrize("family", FAMILIES)
def test_different_sentences_have_different_translations_and_repeat(family):
    drawn = sentences("en", family, 800, seed=5)
    translations = [translate(text) for text in drawn]
    assert len(set(translations)) == len(drawn)
    assert translations == [translate(text) for text in drawn]
    words = set(toy_words().values()) | {SUBJECT, OBJECT, QUESTION}
    assert all(set(text.split()) <= words for text in translations)


def test_no_toy_word_is_english_and_no_two_are_the_same():
    words = list(toy_words().values())
    assert len(set(words)) == len(words) > 200
    assert not set(words) & set(vocabulary("en"))
    assert set(toy_words()) == set(vocabulary("en")) - {"the"}
    assert toy_words()["lamp"] == "mipo"  # for ever: corpora and towers depend on it


def test_an_unknown_word_is_named():
    with pytest.raises(ValueError, match="'zebra' is not in the English lexicon"):
        translate("anna found the zebra")
    with pytest.raises(ValueError, match="it has no word"):
        translate(" ")
