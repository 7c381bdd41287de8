"""Corpora of texts on four topics: text on all of them, and speech that lacks one.

The speech path is trained on narrow speech, which withholds a topic; the web, as text, has all topics
in equal shares. Part of the web is also there as speech, the pool: what an experiment chooses from
it stands for what it would have synthesised. No text of an evaluation corpus of either split is in
anything that is trained on.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from otreg.data.manifest import Utterance, write_manifest
from otreg.data.messages import text_row
from otreg.names import nearest
from otreg.synthetic.corpus import (
    SPLITS,
    VOICES,
    Corpora,
    Corpus,
    Line,
    check_split,
    join,
    plain,
    plan,
    synthesize,
    varied,
    write_text,
)
from otreg.synthetic.topics import TOPICS, topic_texts, topic_vocabulary

TOPIC, WEB = "topic", "web"  # attributes: the topic, and the row of the web that is spoken
TEXT = "text"  # the evaluation corpus without speech
_LANGUAGE = "en"
_SPAN_WORDS = (2, 6)  # of the pieces that the encoder learns from
_WHOLE = 0.25  # share of texts that it also learns from in one piece


@dataclass(frozen=True)
class TopicSettings:
    """Sizes, in texts.

    Attributes:
        tower_texts: spoken for the encoder, half of them words in random order.
        narrow_texts: of speech for the speech language model, without the withheld topic.
        pool_texts: of the web that are there as speech, too.
        web_texts: on all topics, as text.
        test_texts: of speech on each topic, for evaluation.
        language_model_texts: on each topic, for the language model alone.
        withheld: the topic that narrow speech lacks.
        seed: of every draw.
    """

    tower_texts: int = 800
    narrow_texts: int = 900
    pool_texts: int = 400
    web_texts: int = 2000
    test_texts: int = 50
    language_model_texts: int = 2000
    withheld: str = "harbour"
    seed: int = 0


def build(out: Path | str, settings: TopicSettings, *, split: str) -> Corpora:
    """Synthesise what is missing of a split's corpora under `out`.

    Every row has its topic among its attributes.

    Returns:
        Training manifests "narrow" (speech), "web" (text: the assistant's turn alone) and "pool"
        (speech of the web's first rows; the attribute "web" is the id there); evaluation manifests,
        one of speech for each topic by its name, and "text".

    Raises:
        ValueError: for an unknown split or topic, or a pool that is larger than the web.
        ImportError: when the extra `demo` is not installed.
    """
    check_split(split)
    if settings.withheld not in TOPICS:
        raise ValueError(
            f"unknown topic {settings.withheld!r}; {nearest(settings.withheld, TOPICS)}"
        )
    if settings.pool_texts > settings.web_texts:
        raise ValueError(
            f"the pool of {settings.pool_texts} texts is a part of the web, which has only "
            f"{settings.web_texts}; ask for a smaller pool"
        )
    out = Path(out)
    seed = settings.seed
    evaluation = {
        name: {
            topic: _plan(out / f"{name}-{topic}", [topic], settings.test_texts, seed)
            for topic in TOPICS
        }
        for name in SPLITS
    }
    held_out = {
        u.text for plans in evaluation.values() for c in plans.values() for u in c.utterances
    }
    heard = [topic for topic in TOPICS if topic != settings.withheld]
    web = _lines(TOPICS, settings.web_texts, f"{seed} web", held_out)
    narrow = _plan(out / "narrow", heard, settings.narrow_texts, seed, held_out)
    names = [f"web-{number:04d}" for number in range(len(web))]
    spoken_web = [
        replace(line, attributes={**(line.attributes or {}), WEB: name})
        for name, line in zip(names[: settings.pool_texts], web, strict=False)
    ]
    pool = plan(out / "pool", spoken_web, VOICES["paired"], plain, seed)
    towers = plan(out / "towers", _tower_lines(settings, held_out), VOICES["towers"], varied, seed)
    synthesize([towers, narrow, pool, *evaluation[split].values()])
    rng = random.Random(f"{seed} spans")
    web_rows, test_rows = out / "web.jsonl", out / f"{split}-{TEXT}.jsonl"
    write_manifest(web_rows, list(map(as_text, names, web)))
    silent = [
        as_text(f"{u.id}-{TEXT}", Line(u.text, u.language, u.attributes))
        for corpus in evaluation[split].values()
        for u in corpus.utterances
    ]
    write_manifest(test_rows, silent)
    texts = [
        line.text
        for line in _lines(
            TOPICS, settings.language_model_texts * len(TOPICS), f"{seed} text", held_out
        )
    ]
    return Corpora(
        towers=join(
            [towers.write_variant("spans", lambda row: spans(row, rng))], out / "towers.jsonl"
        ),
        text=write_text(out / "text.txt", texts),
        train={"narrow": narrow.manifest, "web": web_rows, "pool": pool.manifest},
        evaluation={topic: corpus.manifest for topic, corpus in evaluation[split].items()}
        | {TEXT: test_rows},
    )


def as_text(name: str, line: Line) -> Utterance:
    """Return a row without speech whose whole text is the assistant's."""
    return text_row(name, line.text, line.language, attributes=line.attributes)


def spans(row: Utterance, rng: random.Random) -> Iterator[Utterance]:
    """Cut a row into pieces of 2 to 6 words by its word times; some rows come in one piece, too.

    Interleaved speech reaches the encoder in such pieces: from the start of a word to the start of
    the word after the last (see `otreg.data.interleave`).
    """
    if row.words is None:
        raise ValueError(f"{row.name} has no word times to cut it by")
    if rng.random() < _WHOLE:
        yield replace(row, words=None)
    start = 0
    while start < len(row.words):
        end = start + rng.randint(*_SPAN_WORDS)
        if len(row.words) - end < _SPAN_WORDS[0]:
            end = len(row.words)
        piece = row.words[start:end]
        yield replace(
            row,
            id=f"{row.id}-{start}",
            text=" ".join(word.word for word in piece),
            start_s=piece[0].start_s,
            end_s=row.words[end].start_s if end < len(row.words) else None,
            words=None,
        )
        start = end


def _lines(
    topics: tuple[str, ...] | list[str], count: int, seed: str, exclude: set[str] | frozenset[str]
) -> list[Line]:
    """Draw `count` texts, the topics in turn, so that every prefix has them in equal shares."""
    share = -(-count // len(topics))
    drawn = [topic_texts(topic, share, seed, exclude=exclude) for topic in topics]
    turns = [
        Line(text, _LANGUAGE, {TOPIC: topic})
        for texts in zip(*drawn, strict=True)
        for topic, text in zip(topics, texts, strict=True)
    ]
    return turns[:count]


def _plan(
    folder: Path,
    topics: list[str],
    count: int,
    seed: int,
    exclude: set[str] | frozenset[str] = frozenset(),
) -> Corpus:
    """Plan a corpus in the voices that the speech language model is trained on."""
    lines = _lines(topics, count, f"{seed} {folder.name}", exclude)
    return plan(folder, lines, VOICES["paired"], plain, seed)


def _tower_lines(settings: TopicSettings, exclude: set[str]) -> list[Line]:
    """Draw the encoder's speech: texts, and as many of all topics' words in random order."""
    rng = random.Random(f"{settings.seed} towers")
    words = sorted({word for topic in TOPICS for word in topic_vocabulary(topic)})
    half = settings.tower_texts // 2
    mixed = [" ".join(rng.choice(words) for _ in range(rng.randint(6, 20))) for _ in range(half)]
    ordered = _lines(TOPICS, settings.tower_texts - half, f"{settings.seed} towers", exclude)
    return [*(Line(text, _LANGUAGE) for text in mixed), *ordered]
