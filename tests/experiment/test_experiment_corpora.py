"""The table of names agrees with what the corpora are."""

from __future__ import annotations

from pathlib import Path

import pytest

from otreg.data.manifest import read_manifest
from otreg.experiment.corpora import CORPORA, SENTENCES, TOWER_SPEECH, build
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
    manifests = (*kind.training, *kind.evaluation, TOWER_SPEECH)
    assert paths.keys() == {*manifests, SENTENCES, *kind.exchanges}
    assert set(kind.in_domain) <= set(kind.evaluation)
    for manifest in manifests:
        assert read_manifest(paths[manifest])


@pytest.mark.parametrize("name", CORPORA)
def test_the_language_model_learns_sentences_and_none_that_is_tested(
    name: str, tmp_path: Path
) -> None:
    paths = build(name, tmp_path, SIZES[name] | SMALL[name], "test")
    sentences = paths[SENTENCES].read_text(encoding="utf-8").splitlines()
    assert sentences
    assert not any("{" in sentence for sentence in sentences)  # no manifest
    spoken = [corpus for corpus in CORPORA[name].evaluation if corpus != "text"]
    tested = {row.text for corpus in spoken for row in read_manifest(paths[corpus])}
    assert not tested & set(sentences)


def test_two_parts_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "a"
    made = synthetic.Corpora(path, path, {"towers": path}, {})
    monkeypatch.setattr(synthetic, "build_corpora", lambda *_, **__: made)
    with pytest.raises(RuntimeError, match="two parts are named"):
        build("topics", tmp_path, {}, "test")
