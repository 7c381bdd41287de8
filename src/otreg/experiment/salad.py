"""SALAD's programs for an experiment: misalignment of single rows, the choice of what to speak."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from otreg.data.dataset import SpeechTextDataset
from otreg.data.interleave import Interleaving
from otreg.data.manifest import Utterance, read_manifest, write_manifest
from otreg.evaluation.divergences import measure_divergences
from otreg.evaluation.views import views
from otreg.model.loading import load_model
from otreg.prepare.embedders import load_embedder
from otreg.prepare.select import prepare_select


def score_misalignment(
    inputs: Sequence[Path],
    out: Path,
    *,
    model: Path,
    text_words: Sequence[int],
    speech_words: Sequence[int],
    batch_size: int = 32,
) -> None:
    """Write each row's misalignment M, and its positions, under custom.

    Args:
        inputs: manifests with words, read one after the other.
        out: the manifest to write; `otreg prepare select --scores` reads it.
        model: folder of a trained model.
        text_words: fewest and most words of a written span.
        speech_words: fewest and most words of a spoken span.
        batch_size: rows at a time.
    """
    rows = [row for path in inputs for row in read_manifest(path)]
    network, processor = load_model(str(model))
    cut = Interleaving((text_words[0], text_words[1]), (speech_words[0], speech_words[1]))
    dataset = SpeechTextDataset(rows, processor, interleaving=cut)
    scored: list[Utterance] = []
    for view in views(network, processor, dataset, batch_size=batch_size, needs={"text"}):
        sums, positions = measure_divergences(view)["misalignment"]
        for total, count in zip(sums.tolist(), positions.tolist(), strict=True):
            row = rows[len(scored)]
            marks = {"misalignment": max(0.0, total), "positions": count}
            scored.append(dataclasses.replace(row, custom={**(row.custom or {}), **marks}))
    write_manifest(out, [row for row in scored if (row.custom or {})["positions"] > 0])


def choose(
    inputs: Sequence[Path],
    out: Path,
    *,
    count: int,
    clusters: int = 128,
    gamma: float = 5.0,
    permute: bool = False,
    seed: int = 0,
) -> None:
    """Choose rows by the misalignment of their clusters: `otreg prepare select` with TF-IDF.

    Args:
        inputs: the manifest to choose from, then that of the scores.
        out: the manifest to write.
        count: rows to choose.
        clusters: K.
        gamma: strength; 0 = the shares as they are.
        permute: a control: the misalignments are dealt out to the rows at random.
        seed: of clusters and draw.
    """
    prepare_select(
        inputs[:1],
        out,
        load_embedder("tfidf", seed=seed),
        scores=inputs[1],
        count=count,
        num_clusters=clusters,
        gamma=gamma,
        permute=permute,
        seed=seed,
        quiet=True,
    )
