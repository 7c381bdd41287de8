"""The corpora of the demo: which voices, sentences and channels stand for which shift.

No sentence of an evaluation corpus of either split is in anything that is trained on: not in the
paired speech, not in the encoder's, not in the language model's text. (The text has other sentences
of the same templates: a language model knows its language.)

Three groups of voices are kept apart from one another: `towers` speak to the encoder's own training,
`paired` to the speech language model's, and two groups of unheard voices are for evaluation. Splits
`development` and `test` share no voice, no template family and no channel setting outside the
training domain: choices are made on the first, and only the second is reported.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from otreg.data.manifest import Utterance, read_manifest, write_manifest
from otreg.synthetic.sentences import FAMILIES, LANGUAGES, sentences
from otreg.synthetic.synthesize import Condition, Request, Voice, synthesize_corpus

logger = logging.getLogger(__name__)

SPLITS = ("development", "test")
IN_DOMAIN = "in-domain"

_ACCENTS = {"en": ("en-us", "en-gb-x-rp"), "es": ("es", "es-419"), "de": ("de",)}
# espeak-ng's voice variants; many for the encoder, which stands for one trained on all the world.
_VOICES = {
    group: tuple(names.split())
    for group, names in {
        "towers": "m1 m2 m3 m6 f1 f2 klatt klatt3 Andy Annie Mario adam anika antonio aunty belinda "
        "boris caleb david grandma gustave ian iven john Lee Marco max michel miguel norbert pablo "
        "quincy rob shelby travis victor Denis Gene Jacky Reed",
        "paired": "m4 m7 f3 klatt2 edward Alicia Mike marcelo Andrea robert",
        "development": "f4 linda m5 Michael",
        "test": "f5 steph m8 paul",
    }.items()
}
_Draw = Callable[[random.Random], Condition]


@dataclass(frozen=True)
class CorporaSettings:
    """Sizes, in utterances a language.

    Attributes:
        tower_utterances: for training the encoder.
        train_utterances: for training the speech language model.
        test_utterances: of every evaluation corpus.
        text_sentences: of every template family, for the language model alone.
        seed: of every draw.
    """

    tower_utterances: int = 1800
    train_utterances: int = 1000
    test_utterances: int = 60
    text_sentences: int = 600
    seed: int = 0


@dataclass(frozen=True)
class DemoCorpora:
    """Paths of what was synthesised.

    Attributes:
        towers: manifest for the encoder.
        text: sentences for the language model, one a line.
        train: manifest for the speech language model.
        evaluation: manifests by corpus name; `IN_DOMAIN` is the one of the training's kind.
    """

    towers: Path
    text: Path
    train: Path
    evaluation: dict[str, Path]


def _plain(rng: random.Random) -> Condition:
    return Condition(rate_wpm=rng.randint(170, 190))


def _varied(rng: random.Random) -> Condition:
    return Condition(
        rate_wpm=rng.randint(140, 220),
        snr_db=rng.choice([None, 30.0, 20.0, 12.0]),
        noise=rng.choice(["white", "pink"]),
        reverberation_s=rng.choice([0.0, 0.0, 0.2]),
    )


_RATES: dict[str, tuple[int, ...]] = {"development": (130, 260), "test": (120, 270)}
_CHANNELS: dict[str, Condition] = {
    "development": Condition(snr_db=20.0, noise="white", reverberation_s=0.2),
    "test": Condition(snr_db=20.0, noise="pink", reverberation_s=0.25),
}


def _rate(split: str) -> _Draw:
    return lambda rng: Condition(rate_wpm=rng.choice(_RATES[split]))


def _channel(split: str) -> _Draw:
    channel = _CHANNELS[split]
    return lambda rng: Condition(
        rate_wpm=rng.randint(170, 190),
        snr_db=channel.snr_db,
        noise=channel.noise,
        reverberation_s=channel.reverberation_s,
    )


def build_demo_corpora(out: Path | str, settings: CorporaSettings, *, split: str) -> DemoCorpora:
    """Synthesise what is missing of a split's corpora under `out`.

    A corpus that a former call completed with the same settings is kept.

    Raises:
        ValueError: for an unknown split.
        ImportError: when the extra `demo` is not installed.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: expected {' or '.join(SPLITS)}")
    out = Path(out)
    evaluation = {name: _plan_evaluation(out, settings, name) for name in SPLITS}
    held_out = {
        u.text for plans in evaluation.values() for c in plans.values() for u in c.utterances
    }
    trained_on = {
        name: _plan(out / name, family, voices, draw, count, settings.seed, exclude=held_out)
        for name, (family, voices, draw, count) in {
            "towers": ("salad", "towers", _varied, settings.tower_utterances * 3 // 4),
            "towers-sentences": ("paired", "towers", _varied, settings.tower_utterances // 4),
            "train": ("paired", "paired", _plain, settings.train_utterances),
        }.items()
    }
    planned = [*trained_on.values(), *evaluation[split].values()]
    _synthesize([corpus for corpus in planned if not corpus.is_complete()])
    towers = out / "towers.jsonl"
    _join([trained_on["towers"].manifest, trained_on["towers-sentences"].manifest], towers)
    text = out / "text.txt"
    lines = [
        line
        for language in LANGUAGES
        for family in FAMILIES
        for line in sentences(
            language, family, settings.text_sentences, settings.seed + 1, exclude=held_out
        )
    ]
    text.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return DemoCorpora(
        towers,
        text,
        trained_on["train"].manifest,
        {name: corpus.manifest for name, corpus in evaluation[split].items()},
    )


def _plan_evaluation(out: Path, settings: CorporaSettings, split: str) -> dict[str, _Corpus]:
    """Draw the evaluation corpora of a split: the training's kind of speech, and each shift of it."""
    return {
        name: _plan(
            out / f"{split}-{name}", family, voices, draw, settings.test_utterances, settings.seed
        )
        for name, (family, voices, draw) in {
            IN_DOMAIN: ("paired", "paired", _plain),
            "voices": ("paired", split, _plain),
            "rate": ("paired", "paired", _rate(split)),
            "noise": ("paired", "paired", _channel(split)),
            "templates": (split, "paired", _plain),
            "all": (split, split, _channel(split)),
        }.items()
    }


@dataclass(frozen=True)
class _Corpus:
    """What a corpus shall hold; `recipe.sha256` in its folder says that it does."""

    folder: Path
    requests: list[Request]
    utterances: list[Utterance]

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.jsonl"

    @property
    def mark(self) -> Path:
        return self.folder / "recipe.sha256"

    def digest(self) -> str:
        recipe = [
            [r.path.name, r.text, asdict(r.voice), asdict(r.condition), r.seed]
            for r in self.requests
        ]
        return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()

    def is_complete(self) -> bool:
        return self.mark.is_file() and self.mark.read_text() == self.digest()


def _plan(
    folder: Path,
    family: str,
    group: str,
    draw: _Draw,
    count: int,
    seed: int,
    *,
    exclude: Collection[str] = (),
) -> _Corpus:
    """Draw the sentences, voices of a group, and channels of one corpus."""
    rng = random.Random(f"{seed} {folder.name}")
    requests, utterances = [], []
    for language in LANGUAGES:
        drawn = sentences(language, family, count, f"{seed} {folder.name}", exclude=exclude)
        for number, text in enumerate(drawn):
            speaker = rng.choice(_VOICES[group])
            name = f"{rng.choice(_ACCENTS[language])}+{speaker}"
            voice = Voice(name, pitch=rng.randint(35, 65))
            path = folder / "audio" / f"{language}-{number:04d}.wav"
            requests.append(Request(path, text, voice, draw(rng), rng.randrange(2**31)))
            utterances.append(
                Utterance(
                    id=f"{folder.name}-{language}-{number:04d}",
                    audio=path,
                    text=text,
                    language=language,
                    speaker=speaker,
                )
            )
    return _Corpus(folder, requests, utterances)


def _synthesize(corpora: list[_Corpus]) -> None:
    """Synthesise corpora in one go: a worker takes seconds to start."""
    for corpus in corpora:
        corpus.folder.mkdir(parents=True, exist_ok=True)
        corpus.mark.unlink(missing_ok=True)
    requests = [request for corpus in corpora for request in corpus.requests]
    if requests:
        logger.info("synthesising %d utterances", len(requests))
        synthesize_corpus(requests)
    for corpus in corpora:
        write_manifest(corpus.manifest, corpus.utterances)
        corpus.mark.write_text(corpus.digest())


def _join(manifests: list[Path], out: Path) -> None:
    """Write one manifest with the lines of several that lie in folders beside it."""
    write_manifest(out, [u for manifest in manifests for u in read_manifest(manifest)])
