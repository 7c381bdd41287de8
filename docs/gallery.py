"""Draw the gallery's figures from the results of a demo that has run.

    python docs/gallery.py demo-out/results.json [FOLDER]

They are PNGs, in docs/gallery/ unless told otherwise; those of an earlier call are removed.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from otreg.evaluation import plots
from otreg.evaluation.report.pictures import KEY_MEASURES, LAYER_MEASURES
from otreg.evaluation.results import read_results

FOLDER = Path(__file__).parent / "gallery"


def figures(results: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Name and figure of all that the results hold; the figure is None where something is missing."""
    yield "word-error-rate-by-corpus", plots.plot_wer_by_corpus(results)
    yield "ratio-to-base", plots.plot_ratio_by_arm(results)
    yield "gap-measures", plots.plot_gap_measures(results, KEY_MEASURES)
    for name in LAYER_MEASURES:
        yield f"by-layer-{name.replace('_', '-')}", plots.plot_by_layer(results, name)
    stages = dict.fromkeys(record["stage"] for record in results.get("curves") or [])
    for stage in stages:
        yield f"training-loss-{stage}", plots.plot_training_curves(results, "loss", stage=stage)
    for record in one_utterance(results):
        title = f"{record['arm']}: {record['text']}"
        shown = (record["plan"], record["targets"], record["frame_s"])
        yield f"transport-{record['arm']}", plots.plot_transport_plan(*shown, title=title)


def one_utterance(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The plans of every arm for the first utterance that has any."""
    records = results.get("alignments") or []
    keys = ("seed", "corpus", "id")
    return [r for r in records if r.get("plan") and all(r[k] == records[0][k] for k in keys)]


def draw(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the figures.

    Args:
        results: of `otreg.evaluation.results`.
        folder: made where missing; PNGs in it are removed.

    Returns:
        The files, numbered in their order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    drawn = [(name, figure) for name, figure in figures(results) if figure is not None]
    written = []
    for number, (name, figure) in enumerate(drawn, 1):
        plain = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")
        written.append(folder / f"{number:02}-{plain}.png")
        plots.save_png(figure, written[-1], dpi=110)
    return written


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="results.json of a demo, or its folder")
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    given = parser.parse_args()
    paths = draw(read_results(given.results), given.folder)
    print(f"{len(paths)} figures: {given.folder}")
