"""Maps of one utterance: tokens down, time to the right."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from otreg.evaluation.plots.canvas import INK, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BRIGHT_IS_HIGH, _BRIGHT_IS_LOW = "cividis", "cividis_r"


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
    figure, (axes,) = new_figure(min(12.0, 1.1 + 0.155 * max(num_tokens, 8)))
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
