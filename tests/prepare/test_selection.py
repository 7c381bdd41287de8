"""Active selection: shares by formula, draws by count, and the whole program on planted topics."""

from __future__ import annotations

import builtins
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from otreg.cli import main
from otreg.data.manifest import read_manifest
from otreg.prepare.embedders import ModelEmbedder, TfidfEmbedder
from otreg.prepare.select import prepare_select
from otreg.prepare.selection import (
    balanced_clusters,
    draw,
    draw_counts,
    misalignment_by_cluster,
    target_shares,
)
from otreg.prepare.texts import read_texts, text_of


@pytest.mark.parametrize(("ratio", "share"), [(1.3, 0.55), (1.5, 0.72), (2.0, 0.91)])
def test_a_withheld_topics_share_is_the_papers_formula(ratio: float, share: float) -> None:
    web = np.full(4, 0.25)
    found = target_shares(web, np.array([ratio, 1, 1, 1]))
    assert found[0] == pytest.approx(0.25 * ratio**5 / (0.25 * ratio**5 + 0.75))
    assert found[0] == pytest.approx(share, abs=0.005)
    assert found.sum() == pytest.approx(1)
    assert target_shares(web, 1e80 * np.array([ratio, 1, 1, 1])) == pytest.approx(found)


def test_gamma_0_and_permuted_misalignments_give_the_webs_shares() -> None:
    web = np.array([0.1, 0.2, 0.3, 0.4])
    assert target_shares(web, np.array([2.0, 1, 1, 1]), gamma=0) == pytest.approx(web)
    assert target_shares(web, np.zeros(4), gamma=0) == pytest.approx(web)
    equal = np.full(4, 0.25)
    turned = [target_shares(equal, np.roll([2.0, 1, 1, 1], k))[0] for k in range(4)]
    assert np.mean(turned) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="every misalignment is 0"):
        target_shares(web, np.zeros(4))
    with pytest.raises(ValueError, match="gamma must be >= 0"):
        target_shares(web, np.ones(4), gamma=float("nan"))


def test_misalignment_is_summed_over_positions_and_pooled_where_nothing_is_scored() -> None:
    mean, scored = misalignment_by_cluster(
        np.array([0, 0, 2]), np.array([1.0, 5.0, 8.0]), np.array([1.0, 2.0, 1.0]), 3
    )
    assert mean.tolist() == [2.0, 3.5, 8.0]
    assert scored.tolist() == [2, 0, 1]


def test_counts_are_the_shares_to_less_than_one_and_sum_up() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        shares = rng.dirichlet(np.ones(7))
        counts = draw_counts(np.full(7, 10_000), shares, 997)
        assert counts.sum() == 997
        assert np.abs(counts - 997 * shares).max() < 1


def test_a_small_cluster_gives_all_and_the_others_share_the_rest() -> None:
    counts = draw_counts(np.array([10, 100, 100]), np.array([0.8, 0.1, 0.1]), 50)
    assert counts.tolist() == [10, 20, 20]
    assert draw_counts(np.array([3, 4]), np.array([1.0, 0.0]), 5).tolist() == [3, 2]
    assert draw_counts(np.array([3, 4]), np.array([0.5, 0.5]), 7).tolist() == [3, 4]
    with pytest.raises(ValueError, match="expected to draw 1 to 7 texts, received 8"):
        draw_counts(np.array([3, 4]), np.array([0.5, 0.5]), 8)


def test_a_draw_is_without_replacement_fair_and_follows_the_seed() -> None:
    labels = np.repeat([0, 1], [20, 30])
    drawn = Counter()
    for seed in range(400):
        chosen = draw(labels, np.array([5, 3]), seed=seed)
        assert len(set(chosen.tolist())) == 8
        assert (labels[chosen] == 0).sum() == 5
        drawn.update(chosen.tolist())
    rates = np.array([drawn[i] / 400 for i in range(50)])
    expected = np.repeat([5 / 20, 3 / 30], [20, 30])
    assert np.abs(rates - expected).max() < 4 * np.sqrt(0.25 * 0.75 / 400)
    assert (
        draw(labels, np.array([5, 3]), seed=1).tolist()
        == draw(labels, np.array([5, 3]), seed=1).tolist()
    )


def test_clusters_are_balanced_and_find_planted_groups() -> None:
    rng = np.random.default_rng(0)
    centres = 4 * np.eye(4)
    truth = np.repeat(np.arange(4), 25)
    points = centres[truth] + 0.3 * rng.normal(size=(100, 4))
    clusters = balanced_clusters(points, 4)
    assert clusters.balanced
    assert clusters.sizes().tolist() == [25] * 4
    assert all(len(set(clusters.labels[truth == k].tolist())) == 1 for k in range(4))
    assert clusters.nearest(points).tolist() == clusters.labels.tolist()
    uneven = balanced_clusters(points[:50], 4)  # two groups in four clusters
    assert sorted(uneven.sizes().tolist()) == [12, 12, 13, 13]
    sampled = balanced_clusters(points, 4, fit_on=40)
    assert not sampled.balanced
    assert sampled.sizes().tolist() == [25] * 4
    with pytest.raises(ValueError, match="expected 1 to 40 clusters for 100 texts, received 41"):
        balanced_clusters(points, 41, fit_on=40)


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith(("k_means_constrained", "sklearn")):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"pip install 'otreg\[select\]'"):
        balanced_clusters(np.zeros((4, 2)), 2)
    with pytest.raises(ImportError, match=r"pip install 'otreg\[select\]'"):
        TfidfEmbedder().embed([], None)


TOPICS = {
    "animals": "cat dog horse mouse bird cow sheep goat",
    "colours": "red blue green yellow black white brown pink",
    "food": "bread cheese apple soup rice meat salt honey",
    "places": "house street garden school market river bridge tower",
}


@pytest.fixture
def web(tmp_path: Path) -> Path:
    """40 texts a topic, a topic's texts made of its own words."""
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(TOPICS[t].split(), 5)) for t in list(TOPICS) * 40]
    (tmp_path / "web.txt").write_text("\n".join([*lines, "", "  "]) + "\n")
    return tmp_path / "web.txt"


def topic(text: str) -> str:
    return next(name for name, words in TOPICS.items() if text.split()[0] in words.split())


def score_lines(web: Path, ratio: float, own_text: bool) -> str:
    """The withheld topic, animals, is misaligned ratio times as much as the others."""
    lines = []
    for row in read_texts(web, "en")[:32]:
        text = text_of(row)
        misalignment = 7 * (ratio if topic(text) == "animals" else 1.0)
        record = {"id": row.id, "misalignment": misalignment, "positions": 7}
        if own_text:
            record |= {"id": f"spoken-{row.id}", "text": text}
        lines.append(json.dumps(record) + "\n")
    return "".join(lines)


@pytest.mark.parametrize("ratio", [1.3, 1.5, 2.0])
@pytest.mark.parametrize("own_text", [False, True])
def test_the_withheld_topic_is_drawn_by_its_share(
    web: Path, tmp_path: Path, ratio: float, own_text: bool
) -> None:
    (tmp_path / "scores.jsonl").write_text(score_lines(web, ratio, own_text))
    out = tmp_path / "chosen.jsonl"
    options = {"scores": tmp_path / "scores.jsonl", "num_clusters": 4, "count": 40, "quiet": True}
    made = prepare_select([web], out, TfidfEmbedder(), language="en", **options)
    rows = read_manifest(out)
    assert len(rows) == len({row.id for row in rows}) == 40
    share = 0.25 * ratio**5 / (0.25 * ratio**5 + 0.75)
    drawn = Counter(topic(text_of(row)) for row in rows)
    assert drawn["animals"] == pytest.approx(40 * share, abs=1)
    animals = next(row for row in rows if topic(text_of(row)) == "animals")
    assert animals.custom["select"]["misalignment"] == pytest.approx(ratio)
    assert animals.custom["select"]["share"] == pytest.approx(share)
    assert animals.custom["select"]["probability"] == pytest.approx(drawn["animals"] / 40)
    assert (animals.audio, animals.language) == (None, "en")
    assert [cluster["size"] for cluster in made["clusters"]] == [40] * 4
    assert made["counts"]["balanced"] is True
    uniform = tmp_path / "uniform.jsonl"
    prepare_select([web], uniform, TfidfEmbedder(), gamma=0.0, **options)
    assert set(Counter(topic(text_of(row)) for row in read_manifest(uniform)).values()) == {10}


def test_permuted_scores_tell_clusters_apart_by_chance_alone(web: Path, tmp_path: Path) -> None:
    (tmp_path / "scores.jsonl").write_text(score_lines(web, 2.0, False))

    def misalignments(seed: int, *, permute: bool) -> list[float]:
        made = prepare_select(
            [web],
            tmp_path / f"{seed} {permute}.jsonl",
            TfidfEmbedder(),
            scores=tmp_path / "scores.jsonl",
            count=20,
            num_clusters=4,
            permute=permute,
            seed=seed,
            quiet=True,
        )
        return sorted(cluster["misalignment"] for cluster in made["clusters"])

    assert misalignments(0, permute=False) == pytest.approx([1, 1, 1, 2])
    permuted = [misalignments(seed, permute=True) for seed in range(4)]
    assert np.mean(permuted) == pytest.approx(1.25)  # no score is lost
    assert np.max(permuted) <= 1.5  # of 8 scored texts a cluster, by chance
    assert len({tuple(values) for values in permuted}) > 1


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT in Hugging Face format."""
    folder = tmp_path_factory.mktemp("bert")
    names = ["[PAD]", "[UNK]", *" ".join(TOPICS.values()).split()]
    word_level = Tokenizer(models.WordLevel({w: i for i, w in enumerate(names)}, "[UNK]"))
    word_level.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=word_level, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(names),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
        )
    ).save_pretrained(folder)
    return folder


def test_sentence_embeddings_are_means_over_real_tokens(
    text_model: Path, web: Path, tmp_path: Path
) -> None:
    from otreg.prepare.program import Program

    rows = read_texts(web, "en")[:3]
    embedder = ModelEmbedder(str(text_model), batch_size=2)
    with Program("toy", [web], tmp_path / "o", {}, quiet=True) as program:
        found = embedder.embed(rows, program)
    for row, vector in zip(rows, found, strict=True):
        ids = embedder.tokenizer(text_of(row), return_tensors="pt")
        with torch.no_grad():
            mean = embedder.model(**ids).last_hidden_state[0].mean(0).numpy()
        assert vector == pytest.approx(mean / np.linalg.norm(mean), abs=2e-3)  # float16
        assert np.linalg.norm(vector) == pytest.approx(1, abs=2e-3)


def test_select_goes_on_from_its_embeddings(
    text_model: Path, web: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scores.jsonl").write_text(score_lines(web, 2.0, False))
    options = {"scores": tmp_path / "scores.jsonl", "num_clusters": 4, "count": 30, "quiet": True}
    prepare_select([web], tmp_path / "whole.jsonl", ModelEmbedder(str(text_model)), **options)
    embedder = ModelEmbedder(str(text_model))
    calls = []
    compute = embedder._texts

    def breaks(rows):
        calls.append(len(rows))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return compute(rows)

    monkeypatch.setattr(embedder, "_texts", breaks)
    with pytest.raises(KeyboardInterrupt):
        prepare_select([web], tmp_path / "out.jsonl", embedder, **options)
    prepare_select([web], tmp_path / "out.jsonl", embedder, **options)
    assert calls == [32] * 6  # 160 texts are 5 batches, one of them broken
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_the_command_line_selects_from_a_manifest_and_keeps_what_it_holds(
    web: Path, tmp_path: Path, capsys
) -> None:
    rows = [
        {"id": f"r{i}", "language": "en", "custom": {"from": i}, "messages": [
            {"role": "assistant", "content": text_of(row)}]}
        for i, row in enumerate(read_texts(web, "en"))
    ]  # fmt: skip
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "web.jsonl").write_text(lines)
    scored = [row | {"custom": {"misalignment": 3.0, "positions": 2}} for row in rows[:8]]
    (tmp_path / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in scored))
    command = ["prepare", "select", str(tmp_path / "web.jsonl"), "--embedder", "tfidf"]
    command += ["--scores", str(tmp_path / "scores.jsonl"), "--clusters", "4", "--quiet"]
    out = tmp_path / "o.jsonl"
    assert main([*command, "--out", str(out), "--count", "12"]) == 0
    assert "rows 12, texts 160, scored 8" in capsys.readouterr().out
    chosen = read_manifest(out)
    assert all(row.id == f"r{row.custom['from']}" for row in chosen)
    assert main([*command, "--out", str(tmp_path / "p.jsonl"), "--count", "200"]) == 2
    assert "expected to draw 1 to 160 texts, received 200" in capsys.readouterr().err


BAD_SCORES = {
    "empty": ("\n", "no scores in it"),
    "not JSON": ("{", "scores.jsonl:1: not valid JSON"),
    "no id": ('{"misalignment": 1, "positions": 1}', "a score needs an id"),
    "missing": ('{"id": "web:1", "positions": 1}', "misalignment is None"),
    "negative": ('{"id": "web:1", "misalignment": -1, "positions": 1}', "misalignment is -1"),
    "no positions": ('{"id": "web:1", "misalignment": 1, "positions": 0}', "positions is 0"),
    "NaN": ('{"id": "web:1", "misalignment": NaN, "positions": 1}', "misalignment is nan"),
    "no text": ('{"id": "x", "misalignment": 1, "positions": 1}', "add a key text"),
}


@pytest.mark.parametrize(("content", "message"), BAD_SCORES.values(), ids=BAD_SCORES)
def test_scores_that_cannot_be_used_are_named(
    web: Path, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "scores.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        prepare_select(
            [web],
            tmp_path / "o.jsonl",
            TfidfEmbedder(),
            scores=tmp_path / "scores.jsonl",
            count=4,
            num_clusters=4,
            quiet=True,
        )
    assert not (tmp_path / "o.jsonl").exists()
