"""Tables on the terminal: nothing is cut at 80 columns."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))
from otreg.cli.tables import print_arms, print_gates, print_rows
from synthetic import WER, make_results

ARMS = ("base", "ctc", "otreg-paper", "otreg", "best")


@pytest.fixture
def terminal(monkeypatch, capsys):
    """Print by a function at 80 columns; return the lines."""
    monkeypatch.setenv("COLUMNS", "80")

    def printed(function, results):
        capsys.readouterr()
        function(results)
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines), default=0) <= 80
        assert not any("… " in line or line.endswith("…") for line in lines)
        return lines

    return printed


def demo_results():
    results = make_results(arms=ARMS, wer={arm: WER.get(arm, WER["worse"]) for arm in ARMS})
    for row in results["rows"]:
        row |= {"num_words": 12345, "substitutions": 1234, "deletions": 345, "insertions": 210}
    return results


def test_error_rates_name_their_normaliser(terminal):
    results = make_results(arms=("base",))
    for row in results["rows"]:
        row["normalizer"] = "whisper-spelling-12345678/transformers-10.11.12"
    said = "compared after the normaliser whisper-spelling-12345678/transformers-10.11.12"
    assert terminal(print_rows, results)[-1] == said


def test_the_arms_and_every_heading_stand_whole(terminal):
    lines = terminal(print_arms, demo_results())
    words = " ".join(lines).split()
    headings = (
        "domain",
        "ratio",
        "coverage",
        "nearest",
        "token",
        "centroid",
        "distance",
        "collapse",
    )
    assert set(headings) <= set(words)
    assert all(any(line.startswith(f"{arm} ") for line in lines) for arm in ARMS)
    assert "Macro WER in %, mean of 2 seeds" in "\n".join(lines)


def test_long_names_fold_and_numbers_stay_whole(terminal):
    results = demo_results()
    for row in results["rows"]:
        row["corpus"] = f"development-templates-{row['corpus']}"
    lines = terminal(print_rows, results)
    joined = "\n".join(lines)
    assert joined.count("34.0–48.0") == 2 * 2  # one row an arm, language and seed: base at noise
    assert "1234 345 210" in joined
    assert "runaway" in "".join(line[-5:].strip() for line in lines[:6]).replace(" ", "")
    one = make_results(
        arms=("an-arm-named-after-all-of-its-options", "base"),
        wer={"an-arm-named-after-all-of-its-options": WER["otreg"], "base": WER["base"]},
    )
    start = "".join(line.split()[0] for line in terminal(print_arms, one) if line.strip())
    assert "an-arm-named-after-all-of-its-options" in start


def test_gates_show_figure_interval_bound_and_verdict(terminal):
    row = dict(kind="gate", comparison=">=", bound=0.1, held=True, figure=0.1234)
    row |= dict(name="retrieval", low=0.05, high=0.2, resampled="utterances")
    rows = [
        row,
        row
        | dict(name="a name of many words that folds", kind="control", held=False, reason="So."),
        row | dict(name="c", comparison="interval within", bound=[-0.05, 0.05], low=None),
        dict(name="d", kind="gate", comparison="contains", bound=1 / 6, held=None, missing="No b."),
    ]
    lines = terminal(print_gates, {"gates": rows})
    text = "\n".join(" ".join(line.split()) for line in lines)
    assert "Gates and controls: 2 of 4 held" in text
    assert "retrieval gate 0.123 0.050…0.200 >= 0.1 held" in text
    assert "control 0.123 0.050…0.200 >= 0.1 not held" in text
    assert "c gate 0.123 – interval within -0.05…0.05 held" in text
    assert "d gate – – contains 0.167 not judged" in text
    assert "a name of many words that folds: So." in text
    assert "d: No b." in text
    assert "paired bootstrap over utterances" in text
    assert terminal(print_gates, {}) == []
