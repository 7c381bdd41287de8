"""Corpora of spoken English with the toy language's translation as the answer.

The language model learns to translate the text of every template family; the speech path hears the
family `paired` alone. No sentence of an evaluation corpus of either split is in anything that is
trained on, neither as speech nor as text.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from otreg.data.manifest import Utterance, write_manifest
from otreg.synthetic.corpus import (
    IN_DOMAIN,
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
from otreg.synthetic.examples import Exchange, write_exchanges
from otreg.synthetic.sentences import FAMILIES, sentences
from otreg.synthetic.translation import translate

INSTRUCTION = "translate"
TEXT = "text"  # the evaluation corpus without speech
_LANGUAGE = "en"


@dataclass(frozen=True)
class TranslationSettings:
    """Sizes, in utterances or sentences.

    Attributes:
        tower_utterances: for training the encoder.
        train_utterances: for training the speech language model.
        test_utterances: of every evaluation corpus but `retrieval`.
        retrieval_pairs: of the corpus `retrieval`, among which each speech looks for its text.
        text_sentences: of every template family, for the language model alone.
        seed: of every draw.
    """

    tower_utterances: int = 2700
    train_utterances: int = 2000
    test_utterances: int = 120
    retrieval_pairs: int = 180
    text_sentences: int = 2000
    seed: int = 0


def build(out: Path | str, settings: TranslationSettings, *, split: str) -> Corpora:
    """Synthesise what is missing of a split's corpora under `out`.

    Returns:
        Training manifests "translate" (the answer is the translation) and "transcribe" (the same
        speech, no messages); evaluation manifests "retrieval" and "in-domain" (new sentences),
        "voices" (unheard ones), "templates" (unspoken ones), and "text" (the sentences of "in-domain"
        as text, without speech).

    Raises:
        ValueError: for an unknown split.
        ImportError: when the extra `demo` is not installed.
    """
    check_split(split)
    out = Path(out)
    evaluation = {name: _plan_evaluation(out, settings, name) for name in SPLITS}
    held_out = {
        u.text for plans in evaluation.values() for c in plans.values() for u in c.utterances
    }

    def lines(name: str, family: str, count: int) -> list[Line]:
        return _lines(family, count, f"{settings.seed} {name}", held_out)

    seed = settings.seed
    random_words = lines("towers", "salad", settings.tower_utterances * 2 // 3)
    spoken = lines("towers-sentences", "paired", settings.tower_utterances // 3)
    heard = lines("train", "paired", settings.train_utterances)
    towers = [
        plan(out / "towers", random_words, VOICES["towers"], varied, seed),
        plan(out / "towers-sentences", spoken, VOICES["towers"], varied, seed),
    ]
    train = plan(out / "train", heard, VOICES["paired"], plain, seed)
    synthesize([*towers, train, *evaluation[split].values()])
    texts = [
        text
        for family in FAMILIES
        for text in sentences(
            _LANGUAGE, family, settings.text_sentences, seed + 1, exclude=held_out
        )
    ]
    exchanges = out / "exchanges.ndjson"  # no manifest, though JSON a line
    write_exchanges(exchanges, [Exchange(text, INSTRUCTION, translate(text)) for text in texts])
    asked = {
        name: corpus.write_variant(INSTRUCTION, lambda row: [to_translate(row)])
        for name, corpus in evaluation[split].items()
    }
    text_rows = out / f"{split}-{TEXT}.jsonl"
    write_manifest(text_rows, [as_text(u) for u in evaluation[split][IN_DOMAIN].utterances])
    return Corpora(
        towers=join([corpus.manifest for corpus in towers], out / "towers.jsonl"),
        text=write_text(out / "text.txt", texts),
        train={
            INSTRUCTION: train.write_variant(INSTRUCTION, lambda row: [to_translate(row)]),
            "transcribe": train.manifest,
        },
        evaluation=asked | {TEXT: text_rows},
        exchanges=(exchanges,),
    )


def to_translate(row: Utterance) -> Utterance:
    """Ask for the translation of a row's speech; the answer is the toy language's."""
    question = ({"type": "audio"}, {"type": "text", "text": INSTRUCTION})
    return replace(row, messages=_conversation(question, translate(row.text)))


def as_text(row: Utterance) -> Utterance:
    """Ask for the translation of a row's transcript, without its speech."""
    question = ({"type": "text", "text": f"{row.text} {INSTRUCTION}"},)
    messages = _conversation(question, translate(row.text))
    return Utterance(f"{row.id}-{TEXT}", None, language=row.language, messages=messages)


def _conversation(question: tuple[dict[str, str], ...], answer: str) -> tuple[dict[str, Any], ...]:
    return (
        {"role": "user", "content": question},
        {"role": "assistant", "content": ({"type": "text", "text": answer},)},
    )


def _plan_evaluation(out: Path, settings: TranslationSettings, split: str) -> dict[str, Corpus]:
    planned = {}
    for name, (family, voices, count) in {
        "retrieval": ("paired", "paired", settings.retrieval_pairs),
        IN_DOMAIN: ("paired", "paired", settings.test_utterances),
        "voices": ("paired", split, settings.test_utterances),
        "templates": (split, "paired", settings.test_utterances),
    }.items():
        folder = out / f"{split}-{name}"
        lines = _lines(family, count, f"{settings.seed} {folder.name}")
        planned[name] = plan(folder, lines, VOICES[voices], plain, settings.seed)
    return planned


def _lines(family: str, count: int, seed: str, exclude: Collection[str] = ()) -> list[Line]:
    drawn = sentences(_LANGUAGE, family, count, seed, exclude=exclude)
    return [Line(text, _LANGUAGE) for text in drawn]
