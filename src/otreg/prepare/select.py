"""`otreg prepare select`: choose the texts that are worth speaking, by SALAD's active selection."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from otreg.data.manifest import Utterance, check_unique_ids
from otreg.data.messages import text_row
from otreg.prepare.digests import file_digest
from otreg.prepare.embedders import Embedder
from otreg.prepare.program import Program
from otreg.prepare.provenance import read_provenance
from otreg.prepare.selection import (
    Clusters,
    balanced_clusters,
    draw,
    draw_counts,
    misalignment_by_cluster,
    target_shares,
)
from otreg.prepare.texts import Score, read_scores, read_texts

logger = logging.getLogger(__name__)

_METHOD = 2  # raise it when the same settings come to give another selection


def prepare_select(
    inputs: Sequence[str | Path],
    out: str | Path,
    embedder: Embedder,
    *,
    scores: str | Path,
    count: int,
    num_clusters: int = 128,
    gamma: float = 5.0,
    seed: int = 0,
    fit_on: int = 10_000,
    permute: bool = False,
    language: str = "und",
    **options: Any,
) -> dict[str, Any]:
    """Write the chosen texts as a manifest.

    P(c) is proportional to P_web(c) M(c)^gamma, over balanced clusters c of the texts' embeddings.

    Args:
        inputs: web text: text files, a text a line, or manifests (.jsonl).
        out: the manifest to write. A chosen row keeps all it has; under custom.select it gets
            cluster, misalignment (M of its cluster), share (P of its cluster) and probability (with
            which it was drawn). A text from a text file is a row without speech.
        embedder: sentence embeddings.
        scores: JSONL of misalignments, see `otreg.prepare.texts.read_scores`. Scored texts that are
            not among the inputs only tell the misalignment of the cluster nearest to them.
        count: texts to choose.
        num_clusters: K.
        gamma: strength; 0 = the web's own shares.
        seed: of clusters and draw.
        fit_on: see `balanced_clusters`.
        permute: a control: deal the scores out to the scored texts at random, so that clusters differ by
            chance alone.
        language: of the texts in text files.
        options: root, overwrite, quiet, command, as for `Program`.

    Returns:
        The provenance; its "clusters" is a table of all clusters.

    Raises:
        ValueError: inputs, scores or numbers that cannot be used.
        ImportError: the extra `select` is not installed.
    """
    scores = Path(scores)
    settings = {
        "method": _METHOD,
        **embedder.settings,
        "scores_sha256": file_digest(scores) if scores.is_file() else None,
        "count": count,
        "clusters": num_clusters,
        "gamma": gamma,
        "seed": seed,
        "fit_on": fit_on,
        "permute": permute,
        "language": language,
    }
    with Program("select", inputs, out, settings, **options) as program:
        rows = _read(program, language)
        scored = read_scores(scores)
        if permute:
            scored = _dealt_out(scored, seed)
        if not program.is_done(rows):
            others = _texts_of_their_own(scored, {row.id for row in rows})
            embeddings = embedder.embed([*rows, *others], program)
            clusters = balanced_clusters(
                embeddings[: len(rows)], num_clusters, seed=seed, fit_on=fit_on
            )
            elsewhere = clusters.nearest(embeddings[len(rows) :])
            cluster_of = dict(zip((row.id for row in rows), clusters.labels, strict=True))
            cluster_of |= dict(zip((row.id for row in others), elsewhere, strict=True))
            table = _table(clusters, scored, cluster_of, count, gamma)
            chosen = draw(clusters.labels, table["drawn"], seed=seed)
            unscored = int((table["scored"] == 0).sum())
            if unscored:
                logger.warning(
                    "%d of %d clusters hold no scored text; they take the mean misalignment",
                    unscored,
                    num_clusters,
                )
            program.publish(
                [_marked(rows[i], int(clusters.labels[i]), table) for i in chosen.tolist()],
                facts={"clusters": _records(table)},
                texts=len(rows),
                scored=len(scored),
                balanced=clusters.balanced,
                clusters_without_score=unscored,
                clusters_drawn_whole=int((table["drawn"] == table["size"]).sum()),
            )
    return read_provenance(out)


def _read(program: Program, language: str) -> list[Utterance]:
    """Rows of manifests and lines of text files, in the order of the inputs."""
    rows: list[Utterance] = []
    for path in program.inputs:
        is_manifest = path.suffix == ".jsonl"
        rows += program.read([path]) if is_manifest else read_texts(path, language)
    if not rows:
        raise ValueError("expected at least one text to choose from, received none")
    check_unique_ids(rows)
    return rows


def _texts_of_their_own(scored: Sequence[Score], known: set[str]) -> list[Utterance]:
    """Rows of the scored texts that are not among the texts to choose from."""
    others = {score.id: score.text for score in scored if score.id not in known}
    missing = [identity for identity, text in others.items() if not text]
    if missing:
        raise ValueError(
            f"the score of {missing[0]!r} is of no text among the inputs and gives none itself "
            f"({len(missing)} such scores); add a key text to it"
        )
    return [text_row(identity, text or "", "und") for identity, text in others.items()]


def _dealt_out(scored: Sequence[Score], seed: int) -> list[Score]:
    """The same texts, each with the misalignment and the positions of one drawn at random."""
    order = np.random.default_rng(seed).permutation(len(scored))
    return [
        replace(own, misalignment=other.misalignment, positions=other.positions)
        for own, other in zip(scored, (scored[i] for i in order), strict=True)
    ]


def _table(
    clusters: Clusters,
    scored: Sequence[Score],
    cluster_of: dict[str, Any],
    count: int,
    gamma: float,
) -> dict[str, np.ndarray]:
    """Columns by name, an entry a cluster."""
    sizes = clusters.sizes()
    misalignment, num_scored = misalignment_by_cluster(
        np.array([cluster_of[score.id] for score in scored], dtype=np.int64),
        np.array([score.misalignment for score in scored]),
        np.array([score.positions for score in scored]),
        len(sizes),
    )
    web = sizes / sizes.sum()
    shares = target_shares(web, misalignment, gamma)
    return {
        "size": sizes,
        "scored": num_scored,
        "web_share": web,
        "misalignment": misalignment,
        "share": shares,
        "drawn": draw_counts(sizes, shares, count),
    }


def _records(table: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    columns = {name: column.tolist() for name, column in table.items()}
    numbers = range(len(columns["size"]))
    return [
        {"cluster": number, **{name: values[number] for name, values in columns.items()}}
        for number in numbers
    ]


def _marked(row: Utterance, cluster: int, table: dict[str, np.ndarray]) -> Utterance:
    mark = {
        "cluster": cluster,
        "misalignment": float(table["misalignment"][cluster]),
        "share": float(table["share"][cluster]),
        "probability": float(table["drawn"][cluster] / table["size"][cluster]),
    }
    return replace(row, custom={**(row.custom or {}), "select": mark})
