"""What the kinds of synthetic corpora hold, by name, so that an experiment can be checked beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otreg.synthetic import corpora as synthetic
from otreg.synthetic.corpus import IN_DOMAIN
from otreg.synthetic.topics import TOPICS

__all__ = ["CORPORA", "SENTENCES", "TOWER_SPEECH", "CorporaKind", "build"]

TOWER_SPEECH, SENTENCES = "towers", "sentences"  # what the towers are trained on


@dataclass(frozen=True)
class CorporaKind:
    """The names in a kind of corpora.

    Attributes:
        settings: the dataclass of its sizes.
        training: names of the manifests that can be trained on.
        evaluation: names of the manifests that are evaluated on.
        in_domain: those of `evaluation` that are of the training data's kind, unless the experiment
            says otherwise.
        exchanges: names of further files for the language model.
    """

    settings: type
    training: tuple[str, ...]
    evaluation: tuple[str, ...]
    in_domain: tuple[str, ...] = ()
    exchanges: tuple[str, ...] = ()


CORPORA: dict[str, CorporaKind] = {
    "demo": CorporaKind(
        synthetic.CORPORA["demo"].settings,
        ("train",),
        (IN_DOMAIN, "voices", "rate", "noise", "templates", "all"),
        (IN_DOMAIN,),
    ),
    "translation": CorporaKind(
        synthetic.CORPORA["translation"].settings,
        ("translate", "transcribe"),
        ("retrieval", IN_DOMAIN, "voices", "templates", "text"),
        ("retrieval", IN_DOMAIN),
        ("exchanges-0",),
    ),
    "topics": CorporaKind(
        synthetic.CORPORA["topics"].settings,
        ("narrow", "web", "pool"),
        (*TOPICS, "text"),
    ),
}
"""By the name that an experiment's `corpora.type` gives; the first is the default."""


def build(kind: str, folder: Path, sizes: Mapping[str, Any], split: str) -> dict[str, Path]:
    """Synthesise what is missing of corpora under a folder.

    Args:
        kind: of `CORPORA`.
        folder: for audio, manifests and text.
        sizes: the kind's settings by name.
        split: "test" or "development".

    Returns:
        Paths by name: each of the kind's `training`, `evaluation` and `exchanges`, `TOWER_SPEECH` (a
        manifest) and `SENTENCES` (the language model's text, one a line).

    Raises:
        ImportError: when the extra `demo` is not installed.
    """
    made = synthetic.build_corpora(kind, folder, sizes, split=split)
    paths = {TOWER_SPEECH: made.towers, SENTENCES: made.text}
    exchanges = {f"exchanges-{number}": path for number, path in enumerate(made.exchanges)}
    for named in (made.train, made.evaluation, exchanges):
        if twice := paths.keys() & named.keys():
            raise RuntimeError(f"corpora {kind!r}: two parts are named {sorted(twice)}")
        paths |= named
    return paths
