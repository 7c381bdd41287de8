"""Figures: what they show, that they stay inside the page, and that nothing global is left."""

import io
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from otreg.evaluation import plots
from synthetic import WER, make_results


def texts(figure):
    """Every text of a drawn figure."""
    import matplotlib.text

    plots.figure_to_svg(figure, "drawn")
    return [found.get_text() for found in figure.findobj(matplotlib.text.Text)]


def test_the_plan_has_time_in_seconds_and_tokens_on_its_axes():
    plan = np.eye(5, 3) / 5
    figure = plots.plot_transport_plan(plan, ["a", "b", "c"], 0.2, title="otreg")
    axes = figure.axes[0]
    (image,) = axes.images
    assert image.get_extent()[:2] == [0.0, 1.0]  # 5 frames of 0.2 s
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first token on top
    shares = image.get_array()
    np.testing.assert_allclose(shares[:, :3], np.eye(3))  # rows of the plan, over their mass
    np.testing.assert_allclose(shares[:, 3:], 0)  # frames without mass show nothing
    assert {"time, s", "otreg"} <= set(texts(figure))


def test_distances_share_one_scale():
    for scale in (0.1, 1.7):
        figure = plots.plot_distances(np.full((4, 2), scale), ["a", "b"], 0.1)
        assert figure.axes[0].images[0].get_clim() == (0, 1)


@pytest.mark.parametrize(
    ("plan", "frame_s", "message"),
    [
        (np.ones((4, 3)), 0.1, "one column per token"),
        (np.full((4, 2), np.nan), 0.1, "finite plan"),
        (np.ones((4, 2)), 0.0, "frame_s > 0"),
    ],
)
def test_a_plan_that_cannot_be_drawn_is_refused(plan, frame_s, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_transport_plan(plan, ["a", "b"], frame_s)


def test_wer_by_corpus_shows_every_arm_corpus_and_interval():
    figure = plots.plot_wer_by_corpus(make_results())
    found = texts(figure)
    assert {"base", "otreg", "worse", "home\n(in domain)", "noise\n(out of domain)"} <= set(found)
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    assert len(lines) == 3 * 3
    low, high = lines[0].get_xdata()  # base at home: two languages, each 10 % in [4, 18]
    assert low == pytest.approx(10 - 6 / np.sqrt(2))
    assert high == pytest.approx(10 + 8 / np.sqrt(2))


def test_a_long_arm_name_is_broken_into_lines():
    name = "an-arm-whose-name-tells-every-option-that-it-was-trained-with"
    wer = {"base": WER["base"], name: WER["otreg"]}
    figure = plots.plot_ratio_by_arm(make_results(arms=("base", name), wer=wer))
    (label,) = {t for t in texts(figure) if t.startswith("an-arm")}
    assert max(map(len, label.split("\n"))) <= 15
    assert label.endswith("…")


def test_a_figure_without_its_data_is_none():
    alone = make_results(arms=("otreg",)) | {"gap": [], "curves": []}
    assert plots.plot_ratio_by_arm(alone) is None
    assert plots.plot_gap_measures(alone) is None
    assert plots.plot_training_curves(alone) is None
    assert plots.plot_training_curves(make_results(), "unlogged") is None


def by_layer(**values):
    return [
        {"arm": arm, "seed": seed, "corpus": corpus, "layer": layer, "num_candidates": 4}
        | {name: value + layer + 10 * seed for name, value in values.items()}
        for arm in ("base", "otreg")
        for seed in (0, 1)
        for corpus in ("home", "noise")
        for layer in (2, 0)
    ]


def test_layers_run_along_the_axis_with_the_chance_level():
    results = make_results() | {"gap_by_layer": by_layer(retrieval_pooled_mrr=1.0, collapse=0.0)}
    figure = plots.plot_by_layer(results, "retrieval_pooled_mrr")
    *arms, chance = figure.axes[0].lines
    assert [line.get_label() for line in arms] == ["base", "otreg"]
    assert list(arms[0].get_xdata()) == [0, 2]
    assert list(arms[0].get_ydata()) == [6, 8]  # the mean of two seeds, 10 apart
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (1, 13)
    assert chance.get_ydata()[0] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert len(plots.plot_by_layer(results, "collapse").axes[0].lines) == 2  # no chance level
    assert plots.plot_by_layer(results, "norm_ratio") is None
    assert plots.plot_by_layer(make_results(), "collapse") is None


def test_an_arm_keeps_its_colour_in_every_figure_and_base_is_grey():
    styles = plots.arm_styles(["base", "a", "b"], "base")
    assert styles["a"] == plots.arm_styles(["a", "b"], None)["a"]
    assert len({colour for colour, _ in styles.values()}) == 3
    assert len({marker for _, marker in styles.values()}) == 3


@pytest.mark.parametrize("name", ["wer", "ratio", "gap", "curves", "plan", "distances"])
def test_svg_is_well_formed_follows_the_page_and_points_nowhere(name):
    results = make_results()
    record = results["alignments"][0]
    draw = {
        "wer": lambda: plots.plot_wer_by_corpus(results),
        "ratio": lambda: plots.plot_ratio_by_arm(results),
        "gap": lambda: plots.plot_gap_measures(results),
        "curves": lambda: plots.plot_training_curves(results),
        "plan": lambda: plots.plot_transport_plan(record["plan"], record["targets"], 0.1),
        "distances": lambda: plots.plot_distances(record["distances"], record["tokens"], 0.1),
    }[name]
    svg = plots.figure_to_svg(draw(), "key 1")
    root = ElementTree.fromstring(svg)
    assert root.tag == "svg"
    assert "currentColor" in svg
    assert plots.INK not in svg
    assert not re.search(r"https?:|<script|@import", svg)
    ids = re.findall(r'\bid="([^"]*)"', svg)
    assert all(value.startswith("key-1-") for value in ids)
    used = set(re.findall(r"url\(#([^)]*)\)", svg)) | set(re.findall(r'href="#([^"]*)"', svg))
    assert used <= set(ids)
    assert svg == plots.figure_to_svg(draw(), "key 1")


def test_labels_are_text_not_formulas_and_may_be_of_any_script():
    record = make_results()["alignments"][0]
    figure = plots.plot_transport_plan(record["plan"], record["targets"], 0.1)
    svg = plots.figure_to_svg(figure, "k")
    assert "▁$cat$" in svg
    assert "猫" in svg
    image = io.BytesIO()
    plots.save_png(figure, image, dpi=40)  # the font lacks 猫: no warning
    assert image.getvalue().startswith(b"\x89PNG")


def test_drawing_leaves_no_global_state_and_importing_loads_no_plotting():
    code = """
import sys
import otreg.evaluation.plots as plots, otreg.evaluation.report
loaded = [name for name in ("matplotlib", "jinja2", "jiwer", "rich", "torch") if name in sys.modules]
assert not loaded, loaded
import matplotlib
before = dict(matplotlib.rcParams)
plots.figure_to_svg(plots.plot_distances([[0.5]], ["a"], 0.1), "k")
assert {k for k, v in matplotlib.rcParams.items() if before[k] != v} <= {"backend"}
import matplotlib.pyplot
assert matplotlib.pyplot.get_fignums() == []
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
