"""The synthetic corpora by name, for experiments: `build_corpora("demo", out, {...}, split="test")`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from otreg.names import nearest
from otreg.synthetic import demo_corpora, topic_corpora, translation_corpora
from otreg.synthetic.corpus import SPLITS, Corpora

__all__ = ["CORPORA", "SPLITS", "Corpora", "Kind", "build_corpora", "corpora_settings"]


class Kind(NamedTuple):
    """What `build_corpora` knows of one name: its settings' class, and what builds it."""

    settings: type[Any]
    build: Callable[..., Corpora]


CORPORA = {
    "demo": Kind(demo_corpora.CorporaSettings, demo_corpora.build),
    "translation": Kind(translation_corpora.TranslationSettings, translation_corpora.build),
    "topics": Kind(topic_corpora.TopicSettings, topic_corpora.build),
}


def corpora_settings(name: str, settings: Mapping[str, Any] | None = None) -> Any:
    """Return the settings of named corpora, with their defaults filled in.

    Raises:
        ValueError: an unknown name or setting, with the nearest known one.
    """
    if name not in CORPORA:
        raise ValueError(f"unknown corpora {name!r}; {nearest(name, CORPORA)}")
    known = [field.name for field in fields(CORPORA[name].settings)]
    for key in settings or {}:
        if key not in known:
            raise ValueError(f"corpora {name!r}: unknown setting {key!r}; {nearest(key, known)}")
    return CORPORA[name].settings(**(settings or {}))


def build_corpora(
    name: str,
    out: Path | str,
    settings: Mapping[str, Any] | Any | None = None,
    *,
    split: str = "test",
) -> Corpora:
    """Synthesise what is missing of named corpora under `out`.

    Args:
        name: of `CORPORA`.
        out: folder for audio, manifests and text.
        settings: sizes, by name or as the kind's own dataclass; None = its defaults.
        split: "test", or "development" for the corpora that choices are made on.

    Returns:
        Paths of manifests and text.

    Raises:
        ValueError: an unknown name, setting or split.
        ImportError: when the extra `demo` is not installed.
    """
    if settings is None or isinstance(settings, Mapping):
        settings = corpora_settings(name, settings)
    return CORPORA[name].build(out, settings, split=split)
