"""The control of SALAD's divergences: spoken spans with the audio of another row."""

from __future__ import annotations

from pathlib import Path

import pytest

from otreg.data.manifest import Utterance
from otreg.data.segments import Clip, Row, Segment
from otreg.data.utterance import Word
from otreg.experiment.extra_measures import partners, with_audio_of


def spoken(name: str, num_words: int, start_s: float | None = None) -> Utterance:
    """Words of half a second each."""
    words = tuple(Word(f"w{i}", i / 2, (i + 1) / 2) for i in range(num_words))
    text = " ".join(word.word for word in words)
    return Utterance(name, Path(f"{name}.wav"), text, language="en", words=words, start_s=start_s)


def test_every_utterance_has_another_and_most_are_of_another_corpus() -> None:
    corpora = {name: [spoken(f"{name}{i}", 2) for i in range(50)] for name in ("a", "b", "c", "d")}
    found = partners(corpora, 0)
    own = [row.id for rows in corpora.values() for row in rows]
    others = [row.id for name in corpora for row in found[name]]
    assert sorted(others) == sorted(own)  # each serves once
    assert all(one != other for one, other in zip(own, others, strict=True))
    apart = sum(one[0] != other[0] for one, other in zip(own, others, strict=True))
    assert 0.6 < apart / len(own) < 0.9  # three quarters by chance
    assert [row.id for row in partners(corpora, 0)["a"]] == [row.id for row in found["a"]]
    assert [row.id for row in partners(corpora, 1)["a"]] != [row.id for row in found["a"]]


@pytest.mark.parametrize(
    ("num_words", "start_s", "expected"), [(9, 1.0, (2.0, 3.5)), (4, None, (1.0, 2.0))]
)
def test_a_spoken_span_gets_the_same_words_of_the_other(
    num_words: int, start_s: float | None, expected: tuple[float, float]
) -> None:
    own = Clip("own-1", Path("own.wav"), "w2 w3 w4", "en", 7.0, 8.5)
    written = Segment("text", "w0 w1", "assistant", supervised=True)
    row = Row("own", "document", (written, Segment("audio", own, "assistant")))
    changed = with_audio_of(spoken("other", num_words, start_s), row)
    clip = changed.segments[1].content
    assert isinstance(clip, Clip)
    assert changed.segments[0] is written
    assert (clip.audio, clip.text) == (Path("other.wav"), "w2 w3 w4")
    assert (clip.start_s, clip.end_s) == pytest.approx(expected)  # a shorter one: as far as it goes
    assert clip.id != own.id  # no cache takes it for the true one
