"""Template grammars: families stay apart, draws repeat."""

import re

import pytest

from otreg.synthetic._lexicon import LEXICON
from otreg.synthetic.sentences import FAMILIES, LANGUAGES, sentence, sentences, vocabulary


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("family", [*FAMILIES, "salad"])
def test_sentences_are_distinct_lower_case_words_and_repeat_with_the_seed(language, family):
    drawn = sentences(language, family, 200, seed=3)
    assert len(set(drawn)) == 200
    assert drawn == sentences(language, family, 200, seed=3)
    assert drawn != sentences(language, family, 200, seed=4)
    words = set(vocabulary(language))
    for text in drawn:
        assert re.fullmatch(r"[^\W\d_]+( [^\W\d_]+)*", text), text
        assert text == text.lower()
        assert set(text.split()) <= words


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_sentence_of_one_family_is_of_another(language):
    drawn = {family: set(sentences(language, family, 300, seed=0)) for family in FAMILIES}
    assert not drawn["paired"] & drawn["development"]
    assert not drawn["paired"] & drawn["test"]
    assert not drawn["development"] & drawn["test"]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("family", ["development", "test"])
def test_about_a_fifth_of_the_words_of_new_templates_is_new(language, family):
    known = set(vocabulary(language, "paired"))
    words = [w for text in sentences(language, family, 300, seed=0) for w in text.split()]
    assert 0.15 < sum(word not in known for word in words) / len(words) < 0.3


def test_unknown_language_or_family_is_refused():
    import random

    with pytest.raises(ValueError, match="unknown language 'fr'"):
        sentence("fr", "paired", random.Random(0))
    with pytest.raises(ValueError, match="unknown family 'prose'"):
        sentence("en", "prose", random.Random(0))


def test_asking_for_more_sentences_than_there_are_is_refused(monkeypatch):
    monkeypatch.setitem(LEXICON["de"]["templates"], "test", ["guten {hour}"])
    hours = len(LEXICON["de"]["slots"]["hour"].split(","))
    assert len(sentences("de", "test", hours, seed=0)) == hours
    with pytest.raises(ValueError, match=f"asked for 9 different sentences, found {hours}"):
        sentences("de", "test", 9, seed=0)
