"""What every figure shares: its canvas, colours, labels, and how it is written.

A figure belongs to no window and no pyplot state. Matplotlib is imported when the first is drawn.
"""

import io
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1b1f24"
"""Colour of text and lines; in a page, its text colour."""

FAINT = "#c9ced6"
"""Colour of grids and bands."""

BASE_STYLE = ("#7d8590", "o")
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


def arm_styles(arms: Sequence[str], base: str | None) -> dict[str, tuple[str, str]]:
    """Arm -> (colour, marker), the same in every figure; the base arm is grey."""
    others = [arm for arm in arms if arm != base]
    styles = {arm: _STYLES[index % len(_STYLES)] for index, arm in enumerate(others)}
    return {arm: styles.get(arm, BASE_STYLE) for arm in arms}


def new_figure(height_in: float, rows: int = 1, columns: int = 1) -> "tuple[Figure, list[Axes]]":
    """A narrow figure, readable on a phone, and its panels row by row."""
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


def wrapped(label: str, width: int = 15) -> str:
    """A label in lines of at most width characters, three lines at most."""
    return "\n".join(textwrap.wrap(label, width, max_lines=3, placeholder=" …"))


def add_legend(figure: "Figure", axes: "Axes") -> None:
    """The names of what the axes show, above them."""
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
