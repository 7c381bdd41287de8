"""Texts by topic: long enough to interleave, their words planted, their content worth reading."""

import pytest

from otreg.synthetic.topics import TOPICS, topic_texts, topic_vocabulary


@pytest.mark.parametrize("topic", TOPICS)
def test_texts_are_distinct_long_and_repeat_with_the_seed(topic):
    drawn = topic_texts(topic, 300, seed=3)
    assert len(set(drawn)) == 300
    assert drawn == topic_texts(topic, 300, seed=3)
    assert not set(drawn) & set(topic_texts(topic, 300, seed=4, exclude=drawn))
    words = set(topic_vocabulary(topic))
    for text in drawn:
        assert 15 <= len(text.split()) <= 30
        assert text == text.lower()
        assert set(text.split()) <= words


@pytest.mark.parametrize("topic", TOPICS)
def test_half_of_what_a_topic_says_no_other_topic_can(topic):
    others = {word for other in TOPICS if other != topic for word in topic_vocabulary(other)}
    words = [word for text in topic_texts(topic, 300, seed=0) for word in text.split()]
    assert 0.5 < sum(word not in others for word in words) / len(words) < 0.65


@pytest.mark.parametrize("topic", TOPICS)
def test_what_was_said_comes_back(topic):
    # Every text names some of its topic's own words twice: its later words follow from earlier ones.
    others = {word for other in TOPICS if other != topic for word in topic_vocabulary(other)}
    texts = [text.split() for text in topic_texts(topic, 300, seed=0)]
    repeats = [sum(words.count(word) > 1 for word in set(words) - others) for words in texts]
    assert sum(count > 0 for count in repeats) > 0.97 * len(texts)
    assert sum(repeats) / len(texts) > 1.5


def test_an_unknown_topic_and_too_many_texts_are_refused():
    with pytest.raises(ValueError, match="unknown topic 'harbor'; did you mean 'harbour'"):
        topic_texts("harbor", 1, seed=0)
    with pytest.raises(ValueError, match="asked for 2 different texts, found"):
        topic_texts("school", 2, seed=0, exclude=Everything())


class Everything(list):
    """Excludes whatever is asked of it."""

    def __contains__(self, text: object) -> bool:
        return True
