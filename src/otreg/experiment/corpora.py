"""The kinds of synthetic corpora that an experiment can name, and what each holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otreg.synthetic.corpora import CORPORA as BUILDERS
from otreg.synthetic.corpora import build_corpora
from otreg.synthetic.corpus import IN_DOMAIN
from otreg.synthetic.topics import TOPICS

__all__ = ["CORPORA", "CorporaKind"]


@dataclass(frozen=True)
class CorporaKind:
    """A kind of corpora.

    Attributes:
        name: of `otreg.synthetic.corpora.CORPORA`.
        training: names of the manifests that can be trained on.
        evaluation: names of the manifests that are evaluated on.
        in_domain: those of `evaluation` that are of the training data's kind, unless the experiment
            says otherwise.
        exchanges: further files for the language model.
    """

    name: str
    training: tuple[str, ...]
    evaluation: tuple[str, ...]
    in_domain: tuple[str, ...]
    exchanges: tuple[str, ...] = ()

    @property
    def settings(self) -> type:
        """The dataclass of its sizes."""
        return BUILDERS[self.name].settings

    def build(self, folder: Path, settings: Any, split: str) -> Mapping[str, Path]:
        """Synthesise what is missing under a folder, for a split.

        Returns:
            Paths by name: each of `training` and `evaluation`, "towers" (a manifest), "text"
            (sentences, one a line) and those of `exchanges`.
        """
        built = build_corpora(self.name, folder, settings, split=split)
        named = {"towers": built.towers, "text": built.text}
        named |= dict(zip(self.exchanges, built.exchanges, strict=True))
        return named | built.train | built.evaluation


CORPORA: dict[str, CorporaKind] = {
    kind.name: kind
    for kind in (
        CorporaKind(
            "demo",
            ("train",),
            (IN_DOMAIN, "voices", "rate", "noise", "templates", "all"),
            (IN_DOMAIN,),
        ),
        CorporaKind(
            "translation",
            ("translate", "transcribe"),
            ("retrieval", IN_DOMAIN, "voices", "templates", "text"),
            (IN_DOMAIN, "retrieval", "text"),
            ("exchanges",),
        ),
        CorporaKind("topics", ("narrow", "web", "pool"), (*TOPICS, "text"), ()),
    )
}
"""By the name that an experiment's `corpora.type` gives."""
