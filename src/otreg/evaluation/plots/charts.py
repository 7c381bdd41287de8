"""Charts that compare arms: error rates, gap measures, layers, training curves."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from otreg.evaluation import summary
from otreg.evaluation.measures import MEASURES, retrieval_chance
from otreg.evaluation.plots.canvas import (
    BASE_STYLE,
    FAINT,
    INK,
    add_legend,
    arm_styles,
    new_figure,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CHANCE = {
    "retrieval_pooled_top1": 0,
    "retrieval_pooled_mrr": 1,
}  # where `retrieval_chance` has its level


def plot_wer_by_corpus(results: Mapping[str, Any]) -> "Figure":
    """WER by corpus, arms side by side: mean over seeds, each seed, and bootstrap intervals.

    The line is the bootstrap interval of the utterances drawn, averaged over seeds where there are
    several; the small marks are single seeds.
    """
    arms, where = summary.arms(results), summary.corpora(results)
    styles = arm_styles(arms, summary.base_arm(results))
    pooled = summary.by_corpus(results)
    step = 0.8 / len(arms)
    height = 0.8 + len(where) * max(0.5, 0.17 * len(arms))
    figure, (axes,) = new_figure(height)
    for row, corpus in enumerate(where):
        if row % 2 == 0:
            axes.axhspan(row - 0.5, row + 0.5, color=FAINT, alpha=0.18, linewidth=0)
        for index, arm in enumerate(arms):
            found = [v for (a, _, c), v in pooled.items() if a == arm and c == corpus]
            if not found:
                continue
            colour, marker = styles[arm]
            y = row + (index - (len(arms) - 1) / 2) * step
            values = [100 * record["wer"] for record in found]
            if all("wer_low" in record and "wer_high" in record for record in found):
                low = 100 * float(np.mean([record["wer_low"] for record in found]))
                high = 100 * float(np.mean([record["wer_high"] for record in found]))
                axes.plot([low, high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
            if len(values) > 1:
                axes.scatter(values, [y] * len(values), s=5, color=colour, alpha=0.6, linewidth=0)
            label = wrapped(arm, 24) if row == 0 else None
            axes.scatter(
                [float(np.mean(values))], [y], s=26, color=colour, marker=marker, label=label
            )
    kinds = {"in": "(in domain)", "out": "(out of domain)"}
    labels = [f"{wrapped(corpus)}\n{kinds[domain]}" for corpus, domain in where.items()]
    axes.set_yticks(range(len(where)), labels=labels, parse_math=False)
    axes.set_ylim(len(where) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("word error rate, %  (less is better)", color=INK)
    add_legend(figure, axes)
    return figure


def plot_ratio_by_arm(results: Mapping[str, Any]) -> "Figure | None":
    """Macro WER relative to the base arm, arms side by side; None without a base arm.

    Filled marks: out of domain; hollow: in domain. Small marks: single seeds.
    """
    base = summary.base_arm(results)
    found = [entry for entry in summary.summarise(results) if entry.ratio_in or entry.ratio_out]
    if base is None or not found:
        return None
    styles = arm_styles(summary.arms(results), base)
    figure, (axes,) = new_figure(0.75 + 0.42 * len(found))
    axes.axvline(1.0, color=styles[base][0], linewidth=1.2)
    for row, entry in enumerate(found):
        _marks(axes, row, entry.ratio_in, entry.ratio_out, styles[entry.arm])
    axes.set_yticks(range(len(found)), labels=[wrapped(e.arm) for e in found], parse_math=False)
    axes.set_ylim(len(found) - 0.5, -0.5)
    text = f"macro WER / that of {base}, same seed (less is better)"
    axes.set_xlabel(wrapped(text, 48), color=INK)
    axes.xaxis.label.set_parse_math(False)
    return figure


def plot_gap_measures(
    results: Mapping[str, Any], names: Sequence[str] | None = None
) -> "Figure | None":
    """One small panel per gap measure, an arm per row; None if nothing was measured.

    Filled marks: mean over the out-of-domain corpora; hollow: in domain. Small marks: seeds.
    """
    found = summary.summarise(results)
    measured = {name for entry in found for name in (*entry.gap_in, *entry.gap_out)}
    names = [name for name in (names or MEASURES) if name in measured]
    if not names:
        return None
    arms = summary.arms(results)
    styles = arm_styles(arms, summary.base_arm(results))
    rows = math.ceil(len(names) / 2)
    figure, panels = new_figure(rows * (0.72 + 0.19 * len(arms)), rows, 2)
    for index, (axes, name) in enumerate(zip(panels, names, strict=False)):
        for row, entry in enumerate(found):
            inside, outside = entry.gap_in.get(name), entry.gap_out.get(name)
            _marks(axes, row, inside, outside, styles[entry.arm])
        measure = MEASURES[name]
        if name == "collapse":
            text = [entry.gap_out or entry.gap_in for entry in found]
            of_text = [gap["collapse_text"].mean for gap in text if "collapse_text" in gap]
            if of_text:
                axes.axvline(float(np.mean(of_text)), color=INK, linewidth=1, linestyle=":")
        arrow = {"higher": " ↑", "lower": " ↓", "none": ""}[measure.better]
        axes.set_title(measure.title.replace(", ", ",\n", 1) + arrow, fontsize=8.5, color=INK)
        axes.set_ylim(len(arms) - 0.5, -0.5)
        labels = [wrapped(entry.arm) for entry in found] if index % 2 == 0 else []
        axes.set_yticks(range(len(arms)) if labels else [], labels=labels, parse_math=False)
        if measure.better == "higher":
            axes.set_xlim(min(0.0, axes.get_xlim()[0]), 1.02)
        else:
            axes.set_xlim(left=0.0)
    for axes in panels[len(names) :]:
        axes.remove()
    return figure


def plot_by_layer(results: Mapping[str, Any], name: str) -> "Figure | None":
    """A gap measure over the layers of the language model, one line per arm; None if not measured.

    The line is the mean over corpora and seeds, the band the range over seeds. A dotted line is the
    chance level of retrieval.
    """
    records = [r for r in results.get("gap_by_layer") or [] if isinstance(r.get(name), int | float)]
    if not records:
        return None
    styles = arm_styles(summary.arms(results), summary.base_arm(results))
    figure, (axes,) = new_figure(2.6)
    for arm in dict.fromkeys(record["arm"] for record in records):
        at: dict[int, dict[int, list[float]]] = {}
        for record in records:
            if record["arm"] == arm:
                by_seed = at.setdefault(record["layer"], {})
                by_seed.setdefault(record["seed"], []).append(record[name])
        means = {
            layer: [float(np.mean(values)) for values in by_seed.values()]
            for layer, by_seed in sorted(at.items())
        }
        colour, marker = styles.get(arm, BASE_STYLE)
        line = [float(np.mean(seeds)) for seeds in means.values()]
        label = wrapped(arm, 24)
        axes.plot(list(means), line, color=colour, marker=marker, markersize=4.5, label=label)
        low, high = [min(seeds) for seeds in means.values()], [max(s) for s in means.values()]
        axes.fill_between(list(means), low, high, color=colour, alpha=0.2, linewidth=0)
    sizes = {record.get("num_candidates") for record in records}
    if name in _CHANCE and None not in sizes:
        level = float(
            np.mean([retrieval_chance(int(size))[_CHANCE[name]] for size in sizes if size])
        )
        axes.axhline(level, color=INK, linewidth=1, linestyle=":")
    axes.set_xticks(sorted({record["layer"] for record in records}))
    axes.set_xlabel("layer of the language model (0: its input)", color=INK)
    title = MEASURES[name].title if name in MEASURES else name
    axes.set_ylabel(title, color=INK, parse_math=False)
    add_legend(figure, axes)
    return figure


def plot_training_curves(
    results: Mapping[str, Any], name: str = "loss", *, stage: str | None = None
) -> "Figure | None":
    """A logged value over the steps of a stage, one line per arm; None if it was never logged.

    The line is the mean over seeds, the band their range.

    Args:
        results: with "curves".
        name: a field of the curves' records.
        stage: the stage to draw; None = the first that logged the value.
    """
    records = [r for r in results.get("curves") or [] if isinstance(r.get(name), int | float)]
    if stage is None and records:
        stage = records[0]["stage"]
    records = [record for record in records if record["stage"] == stage]
    if not records:
        return None
    styles = arm_styles(summary.arms(results), summary.base_arm(results))
    figure, (axes,) = new_figure(2.6)
    for arm in dict.fromkeys(record["arm"] for record in records):
        at: dict[int, list[float]] = {}
        for record in records:
            if record["arm"] == arm:
                at.setdefault(record["step"], []).append(record[name])
        steps = sorted(at)
        colour = styles.get(arm, BASE_STYLE)[0]
        mean = [float(np.mean(at[step])) for step in steps]
        axes.plot(steps, mean, color=colour, linewidth=1.4, label=wrapped(arm, 24))
        low, high = ([float(end(at[step])) for step in steps] for end in (np.min, np.max))
        axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set_xlabel(f"optimiser step of {stage}", color=INK, parse_math=False)
    axes.set_ylabel(name.replace("_", " "), color=INK, parse_math=False)
    add_legend(figure, axes)
    return figure


def _marks(
    axes: "Axes",
    row: int,
    inside: summary.Spread | None,
    outside: summary.Spread | None,
    style: tuple[str, str],
) -> None:
    """In-domain (hollow) and out-of-domain (filled) mean of one arm, with its seeds."""
    colour, marker = style
    for spread, face, shift in ((inside, "none", -0.16), (outside, colour, 0.16)):
        if spread is None:
            continue
        y = row + (shift if inside and outside else 0.0)
        if len(spread.by_seed) > 1:
            axes.plot([spread.low, spread.high], [y, y], color=colour, linewidth=1.4)
            seeds = list(spread.by_seed.values())
            axes.scatter(seeds, [y] * len(seeds), s=6, color=colour, linewidth=0)
        axes.scatter([spread.mean], [y], s=26, marker=marker, facecolor=face, edgecolor=colour)
