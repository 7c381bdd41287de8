"""Word times against times whose errors are known."""

from dataclasses import dataclass

import pytest

from otreg.evaluation.measures import WORD_TIME_MEASURES
from otreg.evaluation.word_times import word_time_measures, word_time_samples


@dataclass(frozen=True)
class Word:
    word: str
    start_s: float
    end_s: float


TRUE = [Word("one", 0.0, 0.2), Word("two", 0.2, 0.6), Word("three", 0.7, 1.0)]


def shifted(words, by):
    return [Word(word.word, word.start_s + by, word.end_s + by) for word in words]


def test_true_times_have_no_error():
    values = word_time_measures([TRUE], [TRUE])
    assert [name for name in WORD_TIME_MEASURES if name in values] == list(WORD_TIME_MEASURES)
    assert values["start_error_mean_s"] == values["start_error_median_s"] == 0
    for name in ("start_within_50ms", "start_frame_f1", "intersection_duration_ratio"):
        assert values[name] == pytest.approx(1)
    assert (values["num_words"], values["num_matched"]) == (3, 3)


def test_a_shift_is_the_error_of_every_word():
    values = word_time_measures([TRUE], [shifted(TRUE, 0.1)])
    assert values["start_error_mean_s"] == pytest.approx(0.1)
    assert values["start_within_50ms"] == 0
    assert values["start_within_100ms"] == 1
    assert values["start_frame_f1"] == 0
    assert values["intersection_duration_ratio"] == pytest.approx((0.1 + 0.3 + 0.2) / 0.9)
    values = word_time_measures([TRUE], [shifted(TRUE, -0.05)])
    assert values["start_within_50ms"] == 1
    apart = word_time_measures([TRUE], [shifted(TRUE, 5)])
    assert apart["intersection_duration_ratio"] == 0


def test_mean_and_median_differ_where_one_word_is_far_off():
    moved = [TRUE[0], TRUE[1], Word("three", 1.6, 1.9)]
    values = word_time_measures([TRUE], [moved])
    assert values["start_error_mean_s"] == pytest.approx(0.3)
    assert values["start_error_median_s"] == 0
    assert values["start_within_100ms"] == pytest.approx(2 / 3)


def test_a_language_for_each_utterance_is_that_utterances() -> None:
    turkish, heard = [Word("Isı", 0.0, 0.1)], [Word("ısı", 0.0, 0.1)]
    values = word_time_measures([turkish, turkish], [heard, heard], language=["tr", "en"])
    assert values["num_matched"] == 1
    with pytest.raises(ValueError, match="a language for each of 2 references, received 1"):
        word_time_measures([turkish, turkish], [heard, heard], language=["tr"])


def test_only_words_on_which_both_agree_are_matched():
    heard = [Word("One,", 0.01, 0.2), Word("too", 0.2, 0.6), Word("three", 0.71, 1.0), TRUE[0]]
    values = word_time_measures([TRUE], [heard], language="en")
    assert values["num_matched"] == 2
    assert values["start_error_mean_s"] == pytest.approx(0.01)
    assert values["start_frame_f1"] == pytest.approx(2 * 2 / (3 + 4))
    assert values["intersection_duration_ratio"] == pytest.approx((0.19 + 0.29) / 0.9)


def test_frames_start_at_their_multiples_and_their_length_is_an_option():
    reference, hypothesis = [[Word("a", 0.06, 0.1)]], [[Word("a", 0.079, 0.1)]]
    assert word_time_measures(reference, hypothesis)["start_frame_f1"] == 1
    assert word_time_measures(reference, hypothesis, frame_s=0.01)["start_frame_f1"] == 0


def test_samples_hold_every_utterance_even_an_empty_one():
    samples = word_time_samples([TRUE, [], TRUE[:1]], [TRUE, [], []])
    assert samples["start_error_mean_s"] == ([0, 0, 0], [3, 0, 0])
    assert samples["start_frame_f1"] == ([6, 0, 0], [6, 0, 1])
    values = word_time_measures([[]], [[]])
    assert values == {"num_words": 0, "num_matched": 0}


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="hypotheses for 1 references, received 0"):
        word_time_measures([TRUE], [])
    with pytest.raises(ValueError, match="frame_s > 0"):
        word_time_measures([TRUE], [TRUE], frame_s=0)
