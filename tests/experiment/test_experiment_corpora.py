"""The table of names agrees with what the corpora are."""

from __future__ import annotations

from pathlib import Path

import pytest

from otreg.data.manifest import read_manifest
from otreg.experiment.corpora import CORPORA, build
from otreg.synthetic import corpora as synthetic

pytest.importorskip("espeakng_loader")

SIZES = {
    "demo": {"tower_utterances": 8, "train_utterances": 2, "test_utterances": 1},
    "translation": {"tower_utterances": 6, "train_utterances": 2, "test_utterances": 2},
    "topics": {"tower_texts": 4, "narrow_texts": 4, "pool_texts": 4, "web_texts": 8},
}
SMALL = {
    "demo": {"text_sentences": 5},
    "translation": {"retrieval_pairs": 3, "text_sentences": 5},
    "topics": {"test_texts": 1, "language_model_texts": 4},
}


def test_every_kind_of_synthetic_corpora_is_known() -> None:
    assert list(CORPORA) == list(synthetic.CORPORA)


@pytest.mark.parametrize("name", CORPORA)
def test_corpora_hold_what_their_kind_names(name: str, tmp_path: Path) -> None:
    kind = CORPORA[name]
    paths = build(name, tmp_path, SIZES[name] | SMALL[name], "test")
    manifests = (*kind.training, *kind.evaluation, "towers")
    assert paths.keys() == {*manifests, "text", *kind.exchanges}
    assert set(kind.in_domain) <= set(kind.evaluation)
    for manifest in manifests:
        assert read_manifest(paths[manifest])
