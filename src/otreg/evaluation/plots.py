"""Figures of the report: transport plans, distances, error rates, gap measures, training curves.

Every function returns a Matplotlib Figure that belongs to no window and no pyplot state. Figures
are narrow, so that they stay readable on a phone; arms differ in colour (Okabe and Ito's palette,
safe for colour-blind readers) and in marker. Matplotlib is imported when the first figure is drawn.
"""

import io
import math
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from otreg.evaluation import summary
from otreg.evaluation.measures import MEASURES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#1b1f24", "#c9ced6"
_BASE_STYLE = ("#7d8590", "o")
_STYLES = (
    ("#0072B2", "s"),
    ("#E69F00", "^"),
    ("#009E73", "D"),
    ("#CC79A7", "v"),
    ("#D55E00", "P"),
    ("#56B4E9", "X"),
    ("#B8A800", "h"),
)
_WIDTH_IN = 4.5
_BRIGHT_IS_HIGH, _BRIGHT_IS_LOW = "cividis", "cividis_r"


def arm_styles(arms: Sequence[str], base: str | None) -> dict[str, tuple[str, str]]:
    """Arm -> (colour, marker), the same in every figure; the base arm is grey."""
    others = [arm for arm in arms if arm != base]
    styles = {arm: _STYLES[index % len(_STYLES)] for index, arm in enumerate(others)}
    return {arm: styles.get(arm, _BASE_STYLE) for arm in arms}


def plot_transport_plan(
    plan: np.ndarray,
    tokens: Sequence[str],
    frame_s: float,
    *,
    title: str = "",
) -> "Figure":
    """The transport plan over time: each frame's mass by target, as shares of the frame's mass.

    Args:
        plan: (frames, targets) non-negative.
        tokens: the targets' labels, in the plan's order.
        frame_s: seconds from one frame to the next.
        title: what is shown, for instance the arm.

    Raises:
        ValueError: labels that do not fit the plan, or a duration that is not positive.
    """
    plan = np.asarray(plan, dtype=float)
    _check_map(plan, tokens, frame_s, "plan")
    mass = plan.sum(axis=1, keepdims=True)
    shares = np.divide(plan, mass, out=np.zeros_like(plan), where=mass > 0)
    return _map(shares, tokens, frame_s, title, "share of the frame's mass", _BRIGHT_IS_HIGH, 0, 1)


def plot_distances(
    distances: np.ndarray, tokens: Sequence[str], frame_s: float, *, title: str = ""
) -> "Figure":
    """Pairwise distances between speech frames and transcript tokens; bright is near.

    The scale ends at 1, the distance of unrelated directions, so that maps can be compared.

    Args:
        distances: (frames, tokens) values of 1 - cos.
        tokens: the tokens' labels, in the matrix's order.
        frame_s: seconds from one frame to the next.
        title: what is shown, for instance the arm.

    Raises:
        ValueError: labels that do not fit the matrix, or a duration that is not positive.
    """
    distances = np.asarray(distances, dtype=float)
    _check_map(distances, tokens, frame_s, "distances")
    return _map(distances, tokens, frame_s, title, "1 − cosine", _BRIGHT_IS_LOW, 0, 1)


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
    figure, (axes,) = _figure(height)
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
            label = _wrapped(arm, 24) if row == 0 else None
            axes.scatter(
                [float(np.mean(values))], [y], s=26, color=colour, marker=marker, label=label
            )
    kinds = {"in": "(in domain)", "out": "(out of domain)"}
    labels = [f"{_wrapped(corpus)}\n{kinds[domain]}" for corpus, domain in where.items()]
    axes.set_yticks(range(len(where)), labels=labels, parse_math=False)
    axes.set_ylim(len(where) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("word error rate, %  (less is better)", color=INK)
    _legend(figure, axes)
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
    figure, (axes,) = _figure(0.75 + 0.42 * len(found))
    axes.axvline(1.0, color=styles[base][0], linewidth=1.2)
    for row, entry in enumerate(found):
        _marks(axes, row, entry.ratio_in, entry.ratio_out, styles[entry.arm])
    axes.set_yticks(range(len(found)), labels=[_wrapped(e.arm) for e in found], parse_math=False)
    axes.set_ylim(len(found) - 0.5, -0.5)
    text = f"macro WER / that of {base}, same seed (less is better)"
    axes.set_xlabel(_wrapped(text, 48), color=INK)
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
    figure, panels = _figure(rows * (0.72 + 0.19 * len(arms)), rows, 2)
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
        labels = [_wrapped(entry.arm) for entry in found] if index % 2 == 0 else []
        axes.set_yticks(range(len(arms)) if labels else [], labels=labels, parse_math=False)
        if measure.better == "higher":
            axes.set_xlim(min(0.0, axes.get_xlim()[0]), 1.02)
        else:
            axes.set_xlim(left=0.0)
    for axes in panels[len(names) :]:
        axes.remove()
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
    figure, (axes,) = _figure(2.6)
    for arm in dict.fromkeys(record["arm"] for record in records):
        at: dict[int, list[float]] = {}
        for record in records:
            if record["arm"] == arm:
                at.setdefault(record["step"], []).append(record[name])
        steps = sorted(at)
        colour = styles.get(arm, _BASE_STYLE)[0]
        mean = [float(np.mean(at[step])) for step in steps]
        axes.plot(steps, mean, color=colour, linewidth=1.4, label=_wrapped(arm, 24))
        low, high = ([float(end(at[step])) for step in steps] for end in (np.min, np.max))
        axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set_xlabel(f"optimiser step of {stage}", color=INK, parse_math=False)
    axes.set_ylabel(name.replace("_", " "), color=INK, parse_math=False)
    _legend(figure, axes)
    return figure


def figure_to_svg(figure: "Figure", key: str) -> str:
    """The figure as an <svg> element to put into HTML as it stands.

    Text stays text in the page's own font, so any script can be shown; ink takes the page's text
    colour, so the figure follows light and dark. Nothing in it points outside the page.

    Args:
        figure: any Matplotlib figure.
        key: prefix of the element's ids; must be unique within the page.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": key}), _quiet_glyphs():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    prefix = re.sub(r"[^A-Za-z0-9_-]", "-", key)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = svg.replace("url(#", f"url(#{prefix}-").replace('href="#', f'href="#{prefix}-')
    svg = re.sub(r'(<svg[^>]*?) width="([\d.]+)pt" height="[\d.]+pt"', r"\1", svg, count=1)
    svg = svg.replace("<svg", '<svg role="img"', 1)
    return svg.replace(INK, "currentColor").replace(FAINT, "var(--faint)").strip()


def save_png(figure: "Figure", path: str | Path | IO[bytes], *, dpi: int = 160) -> None:
    """Write the figure as a PNG on white."""
    with _quiet_glyphs():
        figure.savefig(path, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})


@contextmanager
def _quiet_glyphs() -> Iterator[None]:
    """Silences one warning: a script that Matplotlib's own font lacks is drawn by the browser."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def _figure(height_in: float, rows: int = 1, columns: int = 1) -> "tuple[Figure, list[Axes]]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels:
        axes.patch.set_alpha(0.0)
        axes.tick_params(labelsize=8.5, colors=INK, length=2.5)
        axes.grid(axis="x", color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.xaxis.label.set_size(8.5)
        axes.yaxis.label.set_size(8.5)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(FAINT)
    return figure, panels


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


def _wrapped(label: str, width: int = 15) -> str:
    """A label in lines of at most width characters, three lines at most."""
    return "\n".join(textwrap.wrap(label, width, max_lines=3, placeholder=" …"))


def _legend(figure: "Figure", axes: "Axes") -> None:
    handles, labels = axes.get_legend_handles_labels()
    legend = figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=min(3, len(labels)),
        frameon=False,
        fontsize=8.5,
        labelcolor=INK,
        handletextpad=0.4,
        columnspacing=1.2,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _check_map(values: np.ndarray, tokens: Sequence[str], frame_s: float, name: str) -> None:
    if values.ndim != 2 or values.shape[1] != len(tokens) or values.size == 0:
        raise ValueError(
            f"expected {name} of shape (frames, {len(tokens)}), one column per token, received "
            f"{values.shape}; cut off the padding first"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"expected finite {name}, received NaN or infinity; cut off the padding")
    if not frame_s > 0:
        raise ValueError(f"expected frame_s > 0 seconds, received {frame_s}")


def _map(
    values: np.ndarray,
    tokens: Sequence[str],
    frame_s: float,
    title: str,
    label: str,
    colours: str,
    low: float,
    high: float,
) -> "Figure":
    """Tokens from top to bottom over time in seconds, one cell per frame and token."""
    frames, num_tokens = values.shape
    figure, (axes,) = _figure(min(12.0, 1.1 + 0.155 * max(num_tokens, 8)))
    image = axes.imshow(
        values.T,
        aspect="auto",
        interpolation="nearest",
        cmap=colours,
        vmin=low,
        vmax=high,
        extent=(0.0, frames * frame_s, num_tokens - 0.5, -0.5),
    )
    axes.grid(visible=False)
    axes.set_yticks(range(num_tokens), labels=list(tokens), parse_math=False, fontsize=7.5)
    axes.set_xlabel("time, s", color=INK)
    if title:
        axes.set_title(title, fontsize=9.5, color=INK, parse_math=False)
    beyond = "max" if float(values.max()) > high else "neither"
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=30, extend=beyond)
    bar.set_label(label, color=INK, fontsize=8.5)
    bar.ax.tick_params(labelsize=8, colors=INK, length=2.5)
    bar.outline.set_visible(False)
    return figure
