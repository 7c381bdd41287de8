"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

_MEASURES = ("coverage", "nearest_token", "centroid_distance", "collapse")


def print_rows(results: Mapping[str, Any]) -> None:
    """Error rates by corpus and language, in percent."""
    table = Table(title="Error rates, %", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("corpus", overflow="fold")
    for heading in ("lang", "domain"):
        table.add_column(heading)
    for heading in ("words", "WER", "95 %", "CER", "sub/del/ins", "empty", "runaway"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in results["rows"]:
        table.add_row(
            row["corpus"],
            row["language"],
            row["domain"],
            str(row["num_words"]),
            _percent(row["wer"]),
            f"{_percent(row['wer_low'])}–{_percent(row['wer_high'])}",
            _percent(row["cer"]),
            f"{row['substitutions']}/{row['deletions']}/{row['insertions']}",
            str(row["empty"]),
            str(row["runaway"]),
        )
    Console().print(table)


def print_arms(results: Mapping[str, Any]) -> None:
    """Arm by arm: macro WER in and out of domain, the ratio to base, and gap measures."""
    from otreg.evaluation.summary import summarise

    seeds = len({row["seed"] for row in results["rows"]})
    table = Table(
        box=SIMPLE_HEAD, title=f"Macro WER in %, mean of {seeds} seed{'s' if seeds > 1 else ''}"
    )
    table.add_column("arm")
    for heading in ("in domain", "out of domain", "ratio to base"):
        table.add_column(heading, justify="right")
    for name in _MEASURES:
        table.add_column(name.replace("_", " "), justify="right")
    for arm in summarise(results):
        gap = [arm.gap_out.get(name) for name in _MEASURES]
        table.add_row(
            arm.arm,
            _percent(arm.wer_in.mean) if arm.wer_in else "–",
            _percent(arm.wer_out.mean) if arm.wer_out else "–",
            f"{arm.ratio_out.mean:.2f}" if arm.ratio_out else "–",
            *(f"{spread.mean:.2f}" if spread else "–" for spread in gap),
        )
    Console().print(table)


def print_start_errors(sources: Mapping[str, Mapping[str, Any]]) -> None:
    """How far word starts are from exact ones, source by source; `even` is the control."""
    table = Table(title="Errors of word starts", box=SIMPLE_HEAD)
    table.add_column("source", overflow="fold")
    headings = ("words", "left out", "median ms", "mean ms", "within 50 ms", "within 100 ms")
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, errors in sources.items():
        table.add_row(
            name,
            str(errors["num_words"]),
            str(errors["left_out"]),
            f"{errors['median_ms']:.0f}",
            f"{errors['mean_ms']:.0f}",
            f"{_percent(errors['within_50_ms'])} %",
            f"{_percent(errors['within_100_ms'])} %",
        )
    Console().print(table)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
