"""results.json: strict, checked, merged; and the sums that are drawn from it."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from otreg.evaluation import summary
from otreg.evaluation.gates import judge
from otreg.evaluation.results import environment, merge_results, read_results, write_results
from otreg.evaluation.samples import sample_record
from synthetic import WER, make_results


def test_what_is_written_is_read_back(tmp_path):
    results = make_results()
    path = write_results(results, tmp_path / "deep" / "results.json")
    assert read_results(path) == results
    assert read_results(path.parent) == results
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_numbers_of_numpy_and_torch_become_json_numbers(tmp_path):
    results = make_results()
    results["rows"][0] |= {"wer": np.float32(0.5), "num_words": torch.tensor(100)}
    results["config"] = {"folder": Path("a/b"), "list": (1, 2)}
    read = read_results(write_results(results, tmp_path / "results.json"))
    assert read["rows"][0]["wer"] == 0.5
    assert read["config"] == {"folder": "a/b", "list": [1, 2]}


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float64("nan"), torch.tensor(math.inf)])
def test_a_number_that_is_not_finite_is_refused_by_name_and_nothing_is_written(tmp_path, value):
    results = make_results()
    results["gap"][1]["coverage"] = value
    with pytest.raises(ValueError, match=r"gap\[1\]\.coverage: expected a finite number"):
        write_results(results, tmp_path / "results.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("rows"), "a list 'rows'"),
        (lambda r: r["rows"].clear(), "at least one record"),
        (lambda r: r["rows"][2].pop("wer"), r"rows\[2\]: expected the fields wer"),
        (lambda r: r["rows"][0].update(domain="far"), "domain 'in' or 'out'"),
        (lambda r: r["rows"][0].update(domain="out"), "both in and out of domain"),
        (lambda r: r["rows"][0].update(wer=-1), "number wer >= 0"),
        (lambda r: r["rows"].append(r["rows"][0]), "received a second"),
        (lambda r: r["gap"][0].pop("corpus"), r"gap\[0\]: expected the fields corpus"),
        (lambda r: r.update(samples=[{"arm": "a"}]), r"samples\[0\]: expected the fields seed"),
        (
            lambda r: r.update(samples=[with_sample("base", [1, 1])["samples"][0] | {"at": 1}]),
            r"samples\[0\]: expected 'at' to map",
        ),
        (
            lambda r: r.update(samples=with_sample("base", [1, 1])["samples"] * 2),
            r"samples\[1\]: expected one record",
        ),
        (lambda r: r.update(gate_specs=[SPEC | {"bound": "low"}]), "expected a bound such as"),
        (
            lambda r: r.update(gates=[judge(r, [SPEC])[0] | {"kind": "goal"}]),
            r"gates\[0\]: expected kind",
        ),
        (
            lambda r: r.update(gates=[judge(r, [SPEC])[0] | {"figure": None}]),
            r"gates\[0\]: expected held true or false with a figure",
        ),
    ],
)
def test_results_that_break_the_schema_are_refused(tmp_path, change, message):
    results = copy.deepcopy(make_results())
    change(results)
    path = tmp_path / "results.json"
    with pytest.raises(ValueError, match=message):
        write_results(results, path)
    path.write_text(json.dumps(results), encoding="utf-8")
    with pytest.raises(ValueError, match=r"results\.json: .*" + message):
        read_results(path)


def test_files_that_hold_no_strict_json_are_refused(tmp_path):
    with pytest.raises(ValueError, match="found no file"):
        read_results(tmp_path)
    path = tmp_path / "results.json"
    path.write_text('{"rows": [NaN]}', encoding="utf-8")
    with pytest.raises(ValueError, match="the constant NaN"):
        read_results(path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"results\.json"):
        read_results(path)


def test_merging_joins_records_and_keeps_each_runs_facts():
    one = make_results(arms=("base",), seeds=(0,))
    two = make_results(arms=("otreg",), seeds=(0,)) | {"config": {"seed": 7}}
    merged = merge_results([one, two, one])
    assert summary.arms(merged) == ["base", "otreg"]
    assert len(merged["rows"]) == len(one["rows"]) + len(two["rows"])
    assert "config" not in merged
    assert merged["versions"] == one["versions"]
    assert [(run["arms"], run["config"]) for run in merged["runs"]] == [
        (["base"], one["config"]),
        (["otreg"], two["config"]),
    ]
    assert merge_results([merged, one]) == merged
    alike = merge_results([one, make_results(arms=("otreg",), seeds=(0,))])
    assert "runs" not in alike  # all facts are the same, so they are said once
    assert alike["config"] == one["config"]


def test_a_part_without_rows_tells_facts_about_all():
    one, two = make_results(arms=("base",)), make_results(arms=("otreg",))
    two["config"] = {"seed": 7}
    merged = merge_results([one, two, environment(), {"config": {"all": 1}, "seconds": {"a": 2}}])
    assert merged["config"] == {"all": 1}
    assert merged["machine"] == environment()["machine"]
    assert [run["config"] for run in merged["runs"]] == [one["config"], two["config"]]
    assert len(merged["rows"]) == len(one["rows"]) + len(two["rows"])
    with pytest.raises(ValueError, match="at least one results object"):
        merge_results([environment()])


def test_merging_refuses_what_cannot_be_compared():
    one = make_results(arms=("base",))
    with pytest.raises(ValueError, match="one normaliser"):
        merge_results([one, make_results(arms=("otreg",)) | {"normaliser": "whisper/1"}])
    other = copy.deepcopy(one)
    other["rows"][0]["wer"] = 0.7
    with pytest.raises(ValueError, match="two that differ"):
        merge_results([one, other])
    with pytest.raises(ValueError, match="at least one"):
        merge_results([])


SPEC = {
    "name": "fewer errors",
    "kind": "gate",
    "measure": "wer",
    "corpus": "noise",
    "of": "otreg",
    "minus": "base",
    "bound": "< 0",
}


def with_sample(arm, errors):
    """Results of one arm with a sample of its word errors."""
    part = make_results(arms=(arm,), seeds=(0,))
    of = {"arm": arm, "seed": 0, "corpus": "noise", "measure": "wer"}
    part["samples"] = [
        sample_record(**of, ids=["a", "b"], numerator=errors, denominator=[5, 5], at={"beam": 1})
    ]
    return part


def test_merging_judges_the_gates_anew():
    spec = SPEC | {"at": {"beam": 1}}
    one = merge_results([with_sample("base", [2, 2]), {"gate_specs": [spec]}])
    (row,) = one["gates"]
    assert row["held"] is None
    merged = merge_results([one, with_sample("otreg", [1, 2])])
    (row,) = merged["gates"]
    assert (row["held"], row["figure"]) == (True, pytest.approx(-0.1))
    assert merged["gates"] == judge(merged, [spec])
    assert len(merged["samples"]) == 2
    assert merge_results([merged, one]) == merged
    with pytest.raises(ValueError, match="two that differ; merge the runs of one experiment"):
        merge_results([one, merged | {"gate_specs": [spec | {"bound": "< -1"}]}])


def test_lists_of_numbers_take_one_line_and_text_is_left_alone(tmp_path):
    part = with_sample("base", [2, 0.5])
    part["arm_descriptions"] = {"base": "[\n 1,\n 2 ] 猫"}
    path = write_results(part, tmp_path / "results.json")
    text = path.read_text(encoding="utf-8")
    assert '"numerator": [ 2, 0.5 ]' in text
    assert "猫" in text  # readable, not escaped
    assert read_results(path) == part


def test_macro_rates_and_ratios_have_their_closed_form():
    found = {entry.arm: entry for entry in summary.summarise(make_results())}
    assert found["base"].wer_out.mean == pytest.approx((0.4 + 0.2) / 2)
    assert found["base"].ratio_out is None
    assert found["otreg"].ratio_out.mean == pytest.approx(0.45 / 0.6)
    assert found["otreg"].ratio_in.mean == pytest.approx(1.0)
    assert found["worse"].ratio_out.by_seed == pytest.approx({0: 0.8 / 0.6, 1: 0.8 / 0.6})
    assert found["otreg"].gap_out["coverage"].mean == 0.25


def test_ratios_compare_runs_of_one_seed():
    results = make_results(arms=("base", "otreg"))
    for row in results["rows"]:
        if row["seed"] == 1:
            row["wer"] *= {"base": 2.0, "otreg": 1.0}[row["arm"]]
    (_, entry) = summary.summarise(results)
    assert entry.ratio_out.by_seed == pytest.approx({0: 0.75, 1: 0.375})
    assert (entry.ratio_out.low, entry.ratio_out.high) == pytest.approx((0.375, 0.75))


def test_an_arm_without_one_of_the_corpora_has_no_macro_rate():
    wer = WER | {"otreg": {"home": 0.1, "noise": 0.1}}
    found = summary.summarise(make_results(arms=("base", "otreg"), wer=wer))
    assert found[1].wer_out is None
    assert found[1].ratio_out is None


def test_pooling_languages_weighs_them_by_words_and_narrows_the_interval():
    rows = make_results(arms=("base",), seeds=(0,))["rows"][:2]
    rows[0] |= {"num_words": 300, "wer": 0.2, "wer_low": 0.1, "wer_high": 0.3}
    rows[1] |= {"num_words": 100, "wer": 0.6, "wer_low": 0.5, "wer_high": 0.8}
    pooled = summary.pool_rows(rows)
    assert pooled["wer"] == pytest.approx(0.3)
    assert pooled["num_words"] == 400
    assert pooled["wer_low"] == pytest.approx(0.3 - math.hypot(0.1 * 0.75, 0.1 * 0.25))
    assert pooled["wer_high"] == pytest.approx(0.3 + math.hypot(0.1 * 0.75, 0.2 * 0.25))


def test_pooling_languages_weighs_their_character_errors_by_characters():
    rows = make_results(arms=("base",), seeds=(0,))["rows"][:2]
    rows[0] |= {"num_words": 100, "num_characters": 300, "cer": 0.1}
    rows[1] |= {"num_words": 100, "num_characters": 900, "cer": 0.2}
    assert summary.pool_rows(rows)["cer"] == pytest.approx((0.1 * 300 + 0.2 * 900) / 1200)


def test_examples_are_chosen_by_position_and_stand_side_by_side():
    chosen = summary.select_examples(make_results()["transcripts"], 1)
    assert [records[0]["corpus"] for records in chosen] == ["home", "noise", "rate"]
    assert all([r["arm"] for r in records] == ["base", "otreg", "worse"] for records in chosen)
    assert {record["seed"] for records in chosen for record in records} == {0}


def test_the_environment_names_versions_and_machine():
    found = environment()
    assert found["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert found["machine"]["cores"] >= 1


def test_merging_joins_what_arms_are():
    parts = [make_results(arms=(arm,)) for arm in ("base", "otreg")]
    for part, arm in zip(parts, ("base", "otreg"), strict=True):
        part["arm_descriptions"] = {arm: f"about {arm}"}
    merged = merge_results(parts)
    assert merged["arm_descriptions"] == {"base": "about base", "otreg": "about otreg"}


def test_error_rates_are_hidden_only_where_all_parts_hide_them():
    shown, hidden = make_results(arms=("base",)), make_results(arms=("otreg",))
    hidden["error_rates"] = False
    assert merge_results([shown, hidden]).get("error_rates", True)
    assert merge_results([hidden, shown]).get("error_rates", True)
    assert merge_results([shown | {"error_rates": True}, hidden])["error_rates"] is True
    assert merge_results([shown | {"error_rates": False}, hidden])["error_rates"] is False
    assert merge_results([shown, hidden, {"error_rates": False}])["error_rates"] is False


def test_results_that_cannot_be_written_leave_nothing(tmp_path):
    (tmp_path / "results.json" / "taken").mkdir(parents=True)
    with pytest.raises(OSError, match=r"results\.json"):
        write_results(make_results(), tmp_path / "results.json")
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
