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

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from otreg.synthetic.corpus import (
    IN_DOMAIN,
    SPLITS,
    VOICES,
    Channel,
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
from otreg.synthetic.sentences import FAMILIES, LANGUAGES, sentences
from otreg.synthetic.synthesize import Condition

__all__ = ["IN_DOMAIN", "SPLITS", "CorporaSettings", "DemoCorpora", "build_demo_corpora"]

RATES: dict[str, tuple[int, ...]] = {"development": (130, 260), "test": (120, 270)}
CHANNELS: dict[str, Condition] = {
    "development": Condition(snr_db=20.0, noise="white", reverberation_s=0.2),
    "test": Condition(snr_db=20.0, noise="pink", reverberation_s=0.25),
}


def fast_or_slow(split: str) -> Channel:
    """Return a channel that speaks at one of the split's rates."""
    return lambda rng: Condition(rate_wpm=rng.choice(RATES[split]))


def noisy(split: str) -> Channel:
    """Return a channel with the split's noise and room."""
    channel = CHANNELS[split]
    return lambda rng: Condition(
        rate_wpm=rng.randint(170, 190),
        snr_db=channel.snr_db,
        noise=channel.noise,
        reverberation_s=channel.reverberation_s,
    )


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


def build_demo_corpora(out: Path | str, settings: CorporaSettings, *, split: str) -> DemoCorpora:
    """Synthesise what is missing of a split's corpora under `out`.

    A corpus that a former call completed with the same settings is kept.

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
    trained_on = {
        name: _plan(out / name, family, voices, draw, count, settings.seed, exclude=held_out)
        for name, (family, voices, draw, count) in {
            "towers": ("salad", "towers", varied, settings.tower_utterances * 3 // 4),
            "towers-sentences": ("paired", "towers", varied, settings.tower_utterances // 4),
            "train": ("paired", "paired", plain, settings.train_utterances),
        }.items()
    }
    synthesize([*trained_on.values(), *evaluation[split].values()])
    spoken = [trained_on["towers"].manifest, trained_on["towers-sentences"].manifest]
    lines = [
        line
        for language in LANGUAGES
        for family in FAMILIES
        for line in sentences(
            language, family, settings.text_sentences, settings.seed + 1, exclude=held_out
        )
    ]
    return DemoCorpora(
        join(spoken, out / "towers.jsonl"),
        write_text(out / "text.txt", lines),
        trained_on["train"].manifest,
        {name: corpus.manifest for name, corpus in evaluation[split].items()},
    )


def build(out: Path | str, settings: CorporaSettings, *, split: str) -> Corpora:
    """Synthesise the demo's corpora; see `build_demo_corpora`."""
    demo = build_demo_corpora(out, settings, split=split)
    return Corpora(demo.towers, demo.text, {"train": demo.train}, demo.evaluation)


def _plan_evaluation(out: Path, settings: CorporaSettings, split: str) -> dict[str, Corpus]:
    """Draw the evaluation corpora of a split: the training's kind of speech, and each shift of it."""
    return {
        name: _plan(
            out / f"{split}-{name}", family, voices, draw, settings.test_utterances, settings.seed
        )
        for name, (family, voices, draw) in {
            IN_DOMAIN: ("paired", "paired", plain),
            "voices": ("paired", split, plain),
            "rate": ("paired", "paired", fast_or_slow(split)),
            "noise": ("paired", "paired", noisy(split)),
            "templates": (split, "paired", plain),
            "all": (split, split, noisy(split)),
        }.items()
    }


def _plan(
    folder: Path,
    family: str,
    group: str,
    channel: Channel,
    count: int,
    seed: int,
    *,
    exclude: Collection[str] = (),
) -> Corpus:
    """Draw the sentences of one corpus, as many in each language, then voices and channels."""
    lines = [
        Line(text, language)
        for language in LANGUAGES
        for text in sentences(language, family, count, f"{seed} {folder.name}", exclude=exclude)
    ]
    return plan(folder, lines, VOICES[group], channel, seed)
