"""Figures of the report: transport plans, distances, error rates, gap measures, training curves.

Every function returns a Matplotlib Figure that belongs to no window and no pyplot state. Figures
are narrow, so that they stay readable on a phone; arms differ in colour (Okabe and Ito's palette,
safe for colour-blind readers) and in marker. Matplotlib is imported when the first figure is drawn.
"""

from otreg.evaluation.plots.canvas import FAINT, INK, arm_styles, figure_to_svg, save_png
from otreg.evaluation.plots.charts import (
    plot_by_layer,
    plot_gap_measures,
    plot_ratio_by_arm,
    plot_training_curves,
    plot_wer_by_corpus,
)
from otreg.evaluation.plots.maps import plot_distances, plot_transport_plan

__all__ = [
    "FAINT",
    "INK",
    "arm_styles",
    "figure_to_svg",
    "plot_by_layer",
    "plot_distances",
    "plot_gap_measures",
    "plot_ratio_by_arm",
    "plot_training_curves",
    "plot_transport_plan",
    "plot_wer_by_corpus",
    "save_png",
]
