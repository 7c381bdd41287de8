"""The kinds of synthetic corpora that an experiment can name, and what each holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otreg.synthetic.demo_corpora import IN_DOMAIN, CorporaSettings, build_demo_corpora

__all__ = ["CORPORA", "CorporaKind"]


@dataclass(frozen=True)
class CorporaKind:
    """A kind of corpora.

    Attributes:
        settings: the dataclass of its sizes.
        build: synthesises what is missing under a folder, for a split; returns paths by name: each
            of `training` and `evaluation`, "towers" (a manifest), "text" (sentences, one a line)
            and those of `exchanges`.
        training: names of the manifests that can be trained on.
        evaluation: names of the manifests that are evaluated on.
        in_domain: those of `evaluation` that are of the training data's kind, unless the experiment
            says otherwise.
        exchanges: further files for the language model.
    """

    settings: type
    build: Callable[[Path, Any, str], Mapping[str, Path]]
    training: tuple[str, ...]
    evaluation: tuple[str, ...]
    in_domain: tuple[str, ...]
    exchanges: tuple[str, ...] = ()


def _build_demo(folder: Path, settings: Any, split: str) -> Mapping[str, Path]:
    built = build_demo_corpora(folder, settings, split=split)
    named = {"towers": built.towers, "text": built.text, "train": built.train}
    return named | built.evaluation


CORPORA: dict[str, CorporaKind] = {
    "demo": CorporaKind(
        CorporaSettings,
        _build_demo,
        ("train",),
        (IN_DOMAIN, "voices", "rate", "noise", "templates", "all"),
        (IN_DOMAIN,),
    )
}
"""By the name that an experiment's `corpora.type` gives."""
