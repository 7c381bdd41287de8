"""Word times against silences that are planted in the speech, and against what is done to it later."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from otreg.synthetic.espeak import PHONEME, WORD, Event, Speech
from otreg.synthetic.synthesize import Condition, Request, Synthesizer, Voice, synthesize_corpus
from otreg.synthetic.word_times import word_samples

pytest.importorskip("espeakng_loader")

# Words that start in a voiced sound without a stop: one begins where the silence before it ends.
TEXTS = {
    "en-us+m3": "my yellow wine arrived in many warm rooms",
    "en-gb-x-rp+m4": "anna wore a lemon and a winter ring",
    "es+m3": "la luna nueva era una luna menor",
    "de+m3": "nun malen wir lange neue mauern",
}


@pytest.fixture(scope="module")
def synthesizer() -> Synthesizer:
    return Synthesizer()


def speak(synthesizer, text, voice="en-us+m3", seed=0, **condition):
    request = Request(Path("unused"), text, Voice(voice), Condition(**condition), seed)
    return synthesizer(request)


def silences_s(samples: np.ndarray, shortest_s: float = 0.12) -> list[tuple[float, float]]:
    """Where the speech is silent for long, as (start, end) in seconds, without its two ends."""
    quiet = np.abs(samples) < 0.002
    edges = np.flatnonzero(np.diff(np.r_[0, quiet, 0])).reshape(-1, 2) / 16000
    duration_s = len(samples) / 16000
    return [(a, b) for a, b in edges if b - a > shortest_s and a > 0.01 and b < duration_s - 0.01]


@pytest.mark.parametrize("voice", TEXTS)
@pytest.mark.parametrize("rate_wpm", [120, 180, 270])
def test_words_start_and_end_where_planted_silences_do(synthesizer, voice, rate_wpm):
    words = TEXTS[voice].split()
    found = 0
    for seed in range(6):
        samples, times = speak(
            synthesizer, TEXTS[voice], voice, seed, rate_wpm=rate_wpm, pause_probability=0.6
        )
        assert [word.word for word in times] == words
        pauses = [
            (before.end_s, after.start_s)
            for before, after in itertools.pairwise(times)
            if after.start_s - before.end_s > 0.1
        ]
        silences = silences_s(samples)
        assert len(silences) == len(pauses)
        assert np.abs(np.array(silences) - np.array(pauses)).max(initial=0) < 0.02
        found += len(pauses)
    assert found > 10


def test_times_never_go_back_and_stay_inside_whatever_is_done_to_the_signal(synthesizer):
    text = "there was snow in the garden and fog on the bridge of the teacher"
    for seed in range(20):
        samples, times = speak(
            synthesizer,
            text,
            ("en-us+f2", "en-us+Alicia", "en-gb-x-rp+klatt2")[seed % 3],
            seed,
            rate_wpm=140 + 6 * seed,
            snr_db=12.0,
            noise="pink",
            reverberation_s=0.2,
            pause_probability=0.3,
        )
        assert [word.word for word in times] == text.split()
        moments = [moment for word in times for moment in (word.start_s, word.end_s)]
        assert moments == sorted(moments)
        assert all(word.end_s - word.start_s > 0.02 for word in times)
        assert moments[0] >= 0.02
        assert moments[-1] <= len(samples) / 16000 - 0.019


def test_the_first_word_starts_after_the_silence_that_is_put_in_front(synthesizer):
    samples, times = speak(synthesizer, "my yellow wine", pause_probability=0.0)
    loud = np.flatnonzero(np.abs(samples) > 0.002)
    assert times[0].start_s == pytest.approx(loud[0] / 16000, abs=0.02)
    assert times[-1].end_s == pytest.approx(loud[-1] / 16000, abs=0.02)


def test_two_words_that_are_one_to_espeak_are_cut_between_their_phonemes():
    events = [Event(WORD, 0, 0), Event(WORD, 11, 900)]
    events += [Event(PHONEME, 0, at, name) for at, name in ((0, "I"), (300, "n"), (500, "D"))]
    events += [Event(PHONEME, 0, 700, "@2"), Event(PHONEME, 11, 900, "s")]
    speech = Speech(np.zeros(2000, np.float32), 22050, tuple(events))
    spans = word_samples(speech, "in the snow", [0, 7, 11], {"in": 2, "the": 2}.__getitem__)
    assert spans == [(0, 500), (500, 900), (900, 2000)]


def test_in_the_is_cut_where_the_second_word_begins(synthesizer):
    # "near the" is two words to espeak; a cut one phoneme off would make "the" 45 ms longer or shorter.
    _, merged = speak(synthesizer, "anna ran in the rain", pause_probability=0.0)
    _, apart = speak(synthesizer, "anna ran near the rain", pause_probability=0.0)
    lengths = [
        next(w.end_s - w.start_s for w in times if w.word == "the") for times in (merged, apart)
    ]
    assert lengths[0] == pytest.approx(lengths[1], abs=0.025)


@pytest.mark.parametrize("text", ["gate 23 is open", "a lamp - red"])
def test_what_espeak_says_in_other_words_is_refused_by_name(synthesizer, text):
    with pytest.raises(RuntimeError, match=f"of '{text}'"):
        speak(synthesizer, text, pause_probability=0.0)


def test_a_corpus_returns_its_words_in_the_order_of_the_requests(tmp_path):
    texts = ["my lamp", "a red ring", "blue", "the green violin"]
    requests = [
        Request(tmp_path / f"{n}.wav", text, Voice("en-us+m3"), Condition(), n)
        for n, text in enumerate(texts)
    ]
    times = synthesize_corpus(requests)
    assert [" ".join(word.word for word in words) for words in times] == texts
