"""One synthetic corpus: drawn first, then synthesised unless it stands there already."""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from otreg.data.manifest import Utterance, read_manifest, write_manifest
from otreg.synthetic.synthesize import Condition, Request, Voice, synthesize_corpus

logger = logging.getLogger(__name__)

SPLITS = ("development", "test")
IN_DOMAIN = "in-domain"

ACCENTS = {"en": ("en-us", "en-gb-x-rp"), "es": ("es", "es-419"), "de": ("de",)}
# espeak-ng's voice variants; many for the encoder, which stands for one trained on all the world.
VOICES = {
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
Channel = Callable[[random.Random], Condition]


def plain(rng: random.Random) -> Condition:
    """Draw the training's channel: clean, about 180 words a minute."""
    return Condition(rate_wpm=rng.randint(170, 190))


def varied(rng: random.Random) -> Condition:
    """Draw a channel of the encoder's training: any rate, noise and room."""
    return Condition(
        rate_wpm=rng.randint(140, 220),
        snr_db=rng.choice([None, 30.0, 20.0, 12.0]),
        noise=rng.choice(["white", "pink"]),
        reverberation_s=rng.choice([0.0, 0.0, 0.2]),
    )


def check_split(split: str) -> None:
    """Raise a ValueError for an unknown split."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: expected {' or '.join(SPLITS)}")


@dataclass(frozen=True)
class Corpora:
    """Paths of what an experiment's corpora are.

    Attributes:
        towers: manifest for the encoder.
        text: sentences for the language model, one a line.
        train: manifests for the speech language model, by name.
        evaluation: manifests by name.
        exchanges: files of exchanges for the language model (see `otreg.synthetic.examples`).
    """

    towers: Path
    text: Path
    train: dict[str, Path]
    evaluation: dict[str, Path]
    exchanges: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Line:
    """What is to be said: a text, its language, and what else its row shall tell of it."""

    text: str
    language: str
    attributes: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Corpus:
    """What a corpus shall hold; `recipe.sha256` in its folder says that it does."""

    folder: Path
    requests: list[Request]
    utterances: list[Utterance]

    @property
    def manifest(self) -> Path:
        """Its rows: audio, text, words."""
        return self.folder / "manifest.jsonl"

    @property
    def mark(self) -> Path:
        """Holds the digest of what was synthesised here."""
        return self.folder / "recipe.sha256"

    def digest(self) -> str:
        """Return a digest of everything that decides the corpus."""
        recipe = [
            [r.path.name, r.text, asdict(r.voice), asdict(r.condition), r.seed, u.id, u.attributes]
            for r, u in zip(self.requests, self.utterances, strict=True)
        ]
        return hashlib.sha256(json.dumps(["words", recipe]).encode()).hexdigest()

    def is_complete(self) -> bool:
        """Tell whether a former call synthesised this very corpus."""
        return self.mark.is_file() and self.mark.read_text() == self.digest()

    def write_variant(self, name: str, change: Callable[[Utterance], Iterable[Utterance]]) -> Path:
        """Write another manifest of the same audio: what `change` makes of each row."""
        path = self.folder / f"{name}.jsonl"
        write_manifest(path, [new for row in read_manifest(self.manifest) for new in change(row)])
        return path


def plan(
    folder: Path, lines: Sequence[Line], voices: Sequence[str], channel: Channel, seed: object
) -> Corpus:
    """Draw a voice and a channel for every line.

    Args:
        folder: of the corpus; its name is part of the ids and of the seed.
        lines: what is said.
        voices: espeak-ng's variants to draw from, one a line.
        channel: draws rate, noise and room.
        seed: of the draws.

    Returns:
        The corpus, unspoken: see `synthesize`.
    """
    rng = random.Random(f"{seed} {folder.name}")
    requests, utterances = [], []
    numbers: dict[str, int] = {}
    for line in lines:
        number = numbers[line.language] = numbers.get(line.language, -1) + 1
        speaker = rng.choice(voices)
        name = f"{rng.choice(ACCENTS[line.language])}+{speaker}"
        voice = Voice(name, pitch=rng.randint(35, 65))
        path = folder / "audio" / f"{line.language}-{number:04d}.wav"
        requests.append(Request(path, line.text, voice, channel(rng), rng.randrange(2**31)))
        utterances.append(
            Utterance(
                id=f"{folder.name}-{line.language}-{number:04d}",
                audio=path,
                text=line.text,
                language=line.language,
                speaker=speaker,
                attributes=line.attributes,
            )
        )
    return Corpus(folder, requests, utterances)


def synthesize(corpora: Iterable[Corpus]) -> None:
    """Synthesise those corpora that are not complete, in one go: a worker takes seconds to start."""
    missing = [corpus for corpus in corpora if not corpus.is_complete()]
    for corpus in missing:
        corpus.folder.mkdir(parents=True, exist_ok=True)
        corpus.mark.unlink(missing_ok=True)
    requests = [request for corpus in missing for request in corpus.requests]
    times = []
    if requests:
        logger.info("synthesising %d utterances", len(requests))
        times = synthesize_corpus(requests)
    for corpus in missing:
        spoken, times = times[: len(corpus.requests)], times[len(corpus.requests) :]
        write_manifest(
            corpus.manifest,
            [replace(u, words=w) for u, w in zip(corpus.utterances, spoken, strict=True)],
        )
        corpus.mark.write_text(corpus.digest())


def join(manifests: Sequence[Path], out: Path) -> Path:
    """Write one manifest with the lines of several that lie in folders beside it."""
    write_manifest(out, [u for manifest in manifests for u in read_manifest(manifest)])
    return out


def write_text(path: Path, lines: Iterable[str]) -> Path:
    """Write a text file, a sentence a line."""
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
