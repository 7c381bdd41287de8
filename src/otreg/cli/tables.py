"""Tables on the terminal, readable at 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

_MEASURES = ("coverage", "nearest_token", "centroid_distance", "collapse")


def print_rows(results: Mapping[str, Any]) -> None:
    """Error rates by corpus and language, in percent."""
    table = _table("Error rates, %", fold=["corpus"])
    for heading in ("lang", "domain"):
        table.add_column(heading, overflow="fold")
    _add_numbers(table, ["words", "WER", "95\u00a0%", "CER", "sub del ins", "empty", "run away"])
    for row in results["rows"]:
        table.add_row(
            row["corpus"],
            row["language"],
            row["domain"],
            str(row["num_words"]),
            _percent(row["wer"]),
            f"{_percent(row['wer_low'])}–{_percent(row['wer_high'])}",
            _percent(row["cer"]),
            f"{row['substitutions']} {row['deletions']} {row['insertions']}",
            str(row["empty"]),
            str(row["runaway"]),
        )
    names = dict.fromkeys(row["normalizer"] for row in results["rows"] if row.get("normalizer"))
    Console().print("", table, *(f"compared after the normaliser {name}" for name in names))


def print_arms(results: Mapping[str, Any]) -> None:
    """Arm by arm: macro WER in and out of domain, the ratio to base, and gap measures.

    Nothing where the results say that their error rates answer no question.
    """
    if results.get("error_rates") is False:
        return
    from otreg.evaluation.summary import summarise

    seeds = len({row["seed"] for row in results["rows"]})
    table = _table(f"Macro WER in %, mean of {_seeds(seeds)}", fold=["arm"])
    _add_numbers(table, ["in domain", "out of domain", "ratio to base"])
    _add_numbers(table, [name.replace("_", " ") for name in _MEASURES])
    for arm in summarise(results):
        gap = [arm.gap_out.get(name) for name in _MEASURES]
        table.add_row(
            arm.arm,
            _percent(arm.wer_in.mean) if arm.wer_in else "–",
            _percent(arm.wer_out.mean) if arm.wer_out else "–",
            f"{arm.ratio_out.mean:.2f}" if arm.ratio_out else "–",
            *(f"{spread.mean:.2f}" if spread else "–" for spread in gap),
        )
    Console().print("", table)


def print_gate_measures(results: Mapping[str, Any]) -> None:
    """What the gates compare, arm by arm; means over seeds."""
    from otreg.evaluation.by_arm import gate_tables

    for measured in gate_tables(results):
        table = _table(measured.title, fold=["arm"])
        _add_numbers(table, list(measured.columns))
        for arm, row in measured.rows.items():
            table.add_row(arm, *(f"{spread.mean:.3f}" if spread else "–" for spread in row))
        Console().print("", table)


def print_gates(results: Mapping[str, Any]) -> None:
    """Gates and controls: figure with its interval, bound, and whether it held; nothing if none."""
    rows = results.get("gates") or []
    if not rows:
        return
    held = sum(row.get("held") is True for row in rows)
    table = _table(f"Gates and controls: {held} of {len(rows)} held", fold=["name"])
    table.add_column("kind")
    _add_numbers(table, ["figure", "95\u00a0%", "bound"])
    table.add_column("verdict", no_wrap=True)
    for row in rows:
        judged = row.get("held") is not None
        bound = row["bound"] if isinstance(row["bound"], list) else [row["bound"]]
        numbers = "…".join(f"{value:.3g}" for value in bound)
        interval = "–" if row.get("low") is None else f"{row['low']:.3f}…{row['high']:.3f}"
        table.add_row(
            row["name"],
            row["kind"],
            f"{row['figure']:.3f}" if judged else "–",
            interval,
            f"{row['comparison']} {numbers}",
            ("held" if row["held"] else "not held") if judged else "not judged",
        )
    console = Console()
    console.print("", table)
    for row in rows:
        note = row.get("missing") or ("" if row.get("held") else row.get("reason", ""))
        if note:
            console.print(f"{row['name']}: {note}", markup=False, highlight=False)
    resampled = dict.fromkeys(row["resampled"] for row in rows if row.get("low") is not None)
    if resampled:
        console.print(f"intervals: paired bootstrap over {'; '.join(resampled)}", highlight=False)


def print_word_times(sources: Mapping[str, Mapping[str, float]]) -> None:
    """How far words are from their exact times, source by source; `even` is the control."""
    table = _table("Word times against exact ones", fold=["source"])
    _add_numbers(table, ["words", "left out", "median ms", "mean ms"])
    _add_numbers(table, ["within 50\u00a0ms", "within 100\u00a0ms", "overlap"])
    shares = ("start_within_50ms", "start_within_100ms", "intersection_duration_ratio")
    for name, found in sources.items():
        errors_s = [found.get(f"start_error_{kind}_s") for kind in ("median", "mean")]
        table.add_row(
            name,
            f"{found['num_matched']:.0f}",
            f"{found['num_left_out']:.0f}",
            *("–" if value is None else f"{1000 * value:.0f}" for value in errors_s),
            *(_percent(found[key]) if key in found else "–" for key in shares),
        )
    Console().print("", table, "medians and means are of the error of word starts; shares in %")


def _table(title: str, *, fold: list[str]) -> Table:
    """A table whose first columns give way, folding their text, so that numbers stay whole."""
    table = Table(title=title, box=SIMPLE_HEAD, padding=0, show_edge=False)
    for heading in fold:
        table.add_column(heading, overflow="fold", min_width=9)
    return table


def _add_numbers(table: Table, headings: list[str]) -> None:
    """Columns of numbers, aligned to the right; each word of a heading takes a line."""
    for heading in headings:
        table.add_column(heading.replace(" ", "\n"), justify="right", no_wrap=True)


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
