"""The named corpora: what is held out stays out, what is planted is there, what stands is kept."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from otreg.data.manifest import Utterance, Word, read_manifest
from otreg.synthetic import corpus, demo_corpora, topic_corpora
from otreg.synthetic.corpora import CORPORA, build_corpora, corpora_settings
from otreg.synthetic.corpus import SPLITS, VOICES
from otreg.synthetic.examples import read_exchanges
from otreg.synthetic.synthesize import Request
from otreg.synthetic.topics import TOPICS
from otreg.synthetic.translation import translate

SMALL = {
    "demo": {"tower_utterances": 8, "train_utterances": 4, "test_utterances": 3},
    "translation": {
        "tower_utterances": 9,
        "train_utterances": 6,
        "retrieval_pairs": 5,
        "text_sentences": 50,
    },
    "topics": {"tower_texts": 8, "narrow_texts": 9, "pool_texts": 6, "web_texts": 12},
}

# Large enough that a sentence drawn twice is sure to be found.
LARGE = {
    "demo": {"tower_utterances": 300, "train_utterances": 500, "text_sentences": 300},
    "translation": {"tower_utterances": 300, "train_utterances": 500, "text_sentences": 600},
    "topics": {"tower_texts": 100, "narrow_texts": 600, "pool_texts": 100, "test_texts": 80},
}


def spoken_words(text: str) -> tuple[Word, ...]:
    return tuple(Word(w, 0.1 + 0.3 * n, 0.4 + 0.3 * n) for n, w in enumerate(text.split()))


@pytest.fixture
def silent(monkeypatch) -> list[Request]:
    """Write empty files in place of speech, half a second a word; return what was asked for."""
    asked: list[Request] = []

    def write_nothing(requests):
        for folder in {request.path.parent for request in requests}:
            folder.mkdir(parents=True, exist_ok=True)
        for request in requests:
            request.path.touch()
        asked.extend(requests)
        return [spoken_words(request.text) for request in requests]

    monkeypatch.setattr(corpus, "synthesize_corpus", write_nothing)
    return asked


def said(row: Utterance) -> str:
    """The row's transcript, or the text of its messages."""
    if row.audio is not None:
        return row.text
    return row.messages[0]["content"][0]["text"].removesuffix(" translate")


@pytest.mark.parametrize("name", CORPORA)
def test_nothing_that_is_trained_on_is_in_an_evaluation_corpus(name, silent, tmp_path):
    seen: set[str] = set()
    held_out: set[str] = set()
    for split in SPLITS:
        made = build_corpora(name, tmp_path, LARGE[name], split=split)
        seen |= set(made.text.read_text(encoding="utf-8").splitlines())
        seen |= {e.text for path in made.exchanges for e in read_exchanges(path)}
        trained = [made.towers, *made.train.values()]
        seen |= {said(row) for path in trained for row in read_manifest(path)}
        held_out |= {said(row) for p in made.evaluation.values() for row in read_manifest(p)}
    assert len(held_out) > 300
    assert not seen & held_out


@pytest.mark.parametrize("name", CORPORA)
def test_every_row_of_speech_says_when_its_words_are_said(name, silent, tmp_path):
    made = build_corpora(name, tmp_path, SMALL[name])
    for path in (*made.train.values(), *made.evaluation.values()):
        for row in read_manifest(path):
            if row.audio is not None:
                assert [word.word for word in row.words] == row.text.split()


@pytest.mark.parametrize("name", CORPORA)
def test_what_stands_is_kept_and_what_changed_is_made_again(name, silent, tmp_path):
    first = build_corpora(name, tmp_path, SMALL[name])
    files = (first.towers, first.text, *first.exchanges, *first.train.values())
    content = [path.read_bytes() for path in files]
    silent.clear()
    assert build_corpora(name, tmp_path, SMALL[name]) == first
    assert silent == []
    assert content == [path.read_bytes() for path in files]
    changed = {key: value + 4 for key, value in SMALL[name].items() if key[0] == "t"}
    build_corpora(name, tmp_path, SMALL[name] | changed)
    folders = {request.path.parent.parent.name for request in silent}
    assert any(folder.startswith("tower") for folder in folders)
    assert ("narrow" in folders, "train" in folders) == (False, name != "topics")


def test_splits_share_no_voice_and_no_channel():
    groups = list(VOICES.values())
    assert len({voice for group in groups for voice in group}) == sum(map(len, groups))
    development, test = SPLITS
    assert not set(demo_corpora.RATES[development]) & set(demo_corpora.RATES[test])
    assert demo_corpora.CHANNELS[development] != demo_corpora.CHANNELS[test]


def test_unknown_names_settings_and_splits_are_refused_with_the_nearest(tmp_path):
    with pytest.raises(ValueError, match="unknown corpora 'topcis'; did you mean 'topics'"):
        build_corpora("topcis", tmp_path)
    with pytest.raises(ValueError, match="unknown setting 'web_text'; did you mean 'web_texts'"):
        corpora_settings("topics", {"web_text": 3})
    with pytest.raises(ValueError, match="unknown split 'dev': expected development or test"):
        build_corpora("demo", tmp_path, split="dev")
    with pytest.raises(ValueError, match="unknown topic 'harbor'; did you mean 'harbour'"):
        build_corpora("topics", tmp_path, {"withheld": "harbor"})
    with pytest.raises(ValueError, match="the pool of 5 texts is a part of the web"):
        build_corpora("topics", tmp_path, {"pool_texts": 5, "web_texts": 4})


def test_translation_rows_ask_of_speech_or_text_and_answer_in_the_toy_language(silent, tmp_path):
    made = build_corpora("translation", tmp_path, SMALL["translation"] | {"retrieval_pairs": 180})
    assert made.train.keys() == {"translate", "transcribe"}
    assert made.evaluation.keys() == {"retrieval", "in-domain", "voices", "templates", "text"}
    asked, answer = (read_manifest(made.train["translate"])[0].messages[n] for n in (0, 1))
    assert (asked["role"], answer["role"]) == ("user", "assistant")
    assert asked["content"] == ({"type": "audio"}, {"type": "text", "text": "translate"})
    for path in (made.train["translate"], *made.evaluation.values()):
        for row in read_manifest(path):
            assert row.messages[1]["content"][0]["text"] == translate(said(row))
    assert all(row.messages is None for row in read_manifest(made.train["transcribe"]))
    retrieval = [row.text for row in read_manifest(made.evaluation["retrieval"])]
    assert len(set(retrieval)) == 180
    heard = {row.speaker for row in read_manifest(made.train["translate"])}
    assert not heard & {row.speaker for row in read_manifest(made.evaluation["voices"])}
    text, speech = (read_manifest(made.evaluation[name]) for name in ("text", "in-domain"))
    assert [said(row) for row in text] == [row.text for row in speech]
    assert all(row.audio is None for row in text)
    for exchange in read_exchanges(made.exchanges[0]):
        assert exchange.answer == translate(exchange.text)


def test_narrow_speech_withholds_a_topic_and_the_web_has_all_in_equal_shares(silent, tmp_path):
    made = build_corpora("topics", tmp_path, {"withheld": "forest"})

    def shares(path: Path) -> Counter[str]:
        return Counter(row.attributes["topic"] for row in read_manifest(path))

    assert shares(made.train["narrow"]) == dict.fromkeys(set(TOPICS) - {"forest"}, 300)
    assert shares(made.train["web"]) == dict.fromkeys(TOPICS, 500)
    assert shares(made.train["pool"]) == dict.fromkeys(TOPICS, 100)
    for topic in TOPICS:
        assert shares(made.evaluation[topic]) == {topic: 50}
    assert shares(made.evaluation["text"]) == dict.fromkeys(TOPICS, 50)
    web = {row.id: said(row) for row in read_manifest(made.train["web"])}
    for row in read_manifest(made.train["pool"]):
        assert web[row.attributes["web"]] == row.text


def test_spans_cut_a_row_at_its_words_and_leave_none_out():
    text = " ".join(f"w{number}" for number in range(23))
    row = Utterance("u", Path("u.wav"), text, "en", words=spoken_words(text))
    for seed in range(50):
        whole, pieces = [], []
        for piece in topic_corpora.spans(row, random.Random(seed)):
            (whole if piece.start_s is None else pieces).append(piece)
        assert len(whole) <= 1
        assert " ".join(piece.text for piece in pieces) == text
        for piece in pieces:
            words = piece.text.split()
            assert 2 <= len(words) <= 7
            first = int(words[0][1:])
            assert piece.start_s == row.words[first].start_s
            last = first + len(words)
            assert piece.end_s == (row.words[last].start_s if last < 23 else None)
    with pytest.raises(ValueError, match="has no word times"):
        list(topic_corpora.spans(replace(row, words=None), random.Random(0)))
