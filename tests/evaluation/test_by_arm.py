"""The values behind gates, arm by arm, on the page and on the terminal."""

import pytest
from test_report import report

from otreg.cli.tables import print_arms, print_gate_measures
from otreg.evaluation.by_arm import gate_tables
from otreg.evaluation.plots import plot_distances
from otreg.evaluation.samples import sample_record
from synthetic import make_results

GATE = {"name": "less", "kind": "gate", "measure": "misalignment", "bound": "< 0"}
GATE |= {"corpus": ["home", "noise"], "at": {"audio": "true"}, "of": "otreg", "minus": "base"}
LAYERS = {"name": "retrieval", "kind": "gate", "measure": "mrr", "bound": "> 0"}
LAYERS |= {"corpus": "home", "at": {"layer": [0, 1]}, "of": "otreg", "minus": "base"}
ERRORS = {"name": "errors", "kind": "gate", "measure": "wer", "bound": "< 1"}
ERRORS |= {"corpus": "home", "of": "otreg", "over": "base"}


def gated():
    """Values 1 (base) and 3 (otreg), 1 more for seed 1, in 2 utterances of unlike weight."""
    results = make_results() | {"gate_specs": [GATE, LAYERS, ERRORS], "samples": []}
    for arm, value in (("base", 1), ("otreg", 3)):
        for seed in (0, 1):
            for measure, corpus, at in (
                ("misalignment", "home", {"audio": "true"}),
                ("misalignment", "noise", {"audio": "true"}),
                ("misalignment", "noise", {"audio": "none"}),
                ("mrr", "home", {"layer": 0}),
                ("mrr", "home", {"layer": 1}),
            ):
                record = sample_record(
                    arm=arm,
                    seed=seed,
                    corpus=corpus,
                    measure=measure,
                    ids=["a", "b"],
                    numerator=[0, 10 * (value + seed + at.get("layer", 0))],
                    denominator=[1, 9],
                    at=at,
                )
                results["samples"].append(record)
    return results


def test_a_table_holds_what_the_gates_compare():
    of_audio, of_layers = gate_tables(gated())  # error rates have tables of their own
    assert (of_audio.title, of_audio.columns) == ("misalignment, audio true", ("home", "noise"))
    assert (of_layers.title, of_layers.columns) == ("mrr", ("layer 0", "layer 1"))
    means = {arm: [spread.mean for spread in row] for arm, row in of_layers.rows.items()}
    assert means == {"base": [1.5, 2.5], "otreg": [3.5, 4.5]}  # no row for what was not measured
    assert of_audio.rows["otreg"][1].by_seed == {0: 3.0, 1: 4.0}


def test_a_measure_without_samples_has_no_table():
    assert gate_tables(gated() | {"samples": []}) == []
    assert gate_tables(make_results()) == []


def test_page_and_terminal_show_them(tmp_path, capsys):
    page = " ".join(report(gated(), tmp_path).text.split())
    assert "What the gates compare" in page
    assert "misalignment, audio true" in page
    assert "1.5001.000–2.000" in page
    print_gate_measures(gated())
    assert "otreg 3.500 4.500" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("shown", [True, False])
def test_error_rates_that_answer_no_question_are_not_shown(shown, tmp_path, capsys):
    results = gated() | {"error_rates": shown}
    page = report(results, tmp_path)
    assert ("#errors" in page.all("href")) is shown
    assert ("errors" in page.all("id")) is shown
    assert ("word error rate" in page.text) is shown
    assert ("no error rates are shown" in page.text) is not shown
    figure = report(
        results, tmp_path, figures={"a figure of one's own": plot_distances([[0.5]], ["a"], 0.1)}
    )
    assert "a figure of one's own" in figure.text
    print_arms(results)
    assert bool(capsys.readouterr().out) is shown
