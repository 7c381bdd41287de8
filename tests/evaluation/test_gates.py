"""Gates and controls: figures in closed form, intervals against a plain loop, and every refusal."""

import doctest

import numpy as np
import pytest
import yaml

from otreg.evaluation import bootstrap, gates, samples
from otreg.evaluation.gate_specs import Bound, gate_measures, parse_specs
from otreg.evaluation.gates import judge
from otreg.evaluation.samples import sample_record

IDS = [f"u{index}" for index in range(200)]


def sample(arm, numerator, denominator=None, *, seed=0, corpus="test", measure="m", ids=None, **at):
    ids = IDS[: len(numerator)] if ids is None else ids
    return sample_record(
        arm=arm,
        seed=seed,
        corpus=corpus,
        measure=measure,
        ids=ids,
        numerator=numerator,
        denominator=denominator,
        at=at,
    )


def verdict(records, **changes):
    spec = dict(name="g", kind="gate", measure="m", corpus="test", of="new", bound="> 0") | changes
    (row,) = judge({"rows": [], "samples": records}, [spec])
    return row


def test_the_figure_is_a_ratio_of_sums_not_a_mean_of_ratios():
    row = verdict([sample("new", [1, 0], [10, 1])], bound="within [1/11, 1/2]")
    assert row["figure"] == pytest.approx(1 / 11)
    assert (row["held"], row["comparison"], row["bound"]) == (True, "within", [1 / 11, 0.5])
    row = verdict([sample("new", [1, 0], [10, 1])], bound="interval >= 1/2")
    assert (row["held"], row["comparison"], row["bound"]) == (False, "interval >=", 0.5)


def test_a_difference_and_a_ratio_compare_runs_of_one_seed_and_average_over_seeds():
    records = [
        sample(arm, [value], seed=seed)
        for arm, values in {"new": (2, 9), "base": (1, 3)}.items()
        for seed, value in enumerate(values)
    ]
    assert verdict(records, minus="base")["figure"] == pytest.approx((1 + 6) / 2)
    assert verdict(records, over="base")["figure"] == pytest.approx((2 + 3) / 2)
    assert verdict(records, minus="base")["seeds"] == [0, 1]
    del records[0]  # new was not run with seed 0
    assert verdict(records, minus="base")["figure"] == 6
    assert verdict(records, minus="base")["seeds"] == [1]


def test_lists_of_arms_corpora_and_places_are_averaged():
    records = [
        sample(arm, [value + 10 * layer], corpus=corpus, layer=layer)
        for arm, value in (("a", 1), ("b", 3))
        for corpus in ("x", "y")
        for layer in (0, 1)
    ]
    row = verdict(records, of=["a", "b"], corpus=["x", "y"], at={"layer": [0, 1]})
    assert row["figure"] == pytest.approx(2 + 5)
    assert row["arms"] == ["a", "b"]
    assert row["corpus"] == ["x", "y"]
    assert verdict(records, of="a", corpus="y", at={"layer": 1})["figure"] == 11


def test_the_other_side_may_differ_in_place_measure_corpus_or_arm():
    records = [
        sample("new", [5], prompt="seen"),
        sample("new", [4], prompt="unseen"),
        sample("new", [2], measure="chance"),
        sample("base", [1], corpus="shuffled", ids=["u0"]),
    ]
    of = {"at": {"prompt": "unseen"}}
    assert verdict(records, **of, minus={"at": {"prompt": "seen"}})["figure"] == -1
    row = verdict(records, **of, over={"measure": "chance", "at": {"prompt": None}})
    assert row["figure"] == 2
    row = verdict(
        records, **of, minus={"arm": "base", "corpus": "shuffled", "at": {"prompt": None}}
    )
    assert row["figure"] == 3
    assert row["arms"] == ["new", "base"]
    assert row["compared"] == "m of new on test at prompt unseen minus m of base on shuffled"


def test_the_interval_is_that_of_a_plain_loop_over_resampled_utterances():
    rng = np.random.default_rng(7)
    errors, words = rng.integers(0, 4, 60), rng.integers(3, 9, 60)
    row = verdict([sample("new", errors, words)])
    draws = [rng.integers(60, size=60) for _ in range(4000)]
    expected = np.quantile([errors[d].sum() / words[d].sum() for d in draws], [0.025, 0.975])
    assert [row["low"], row["high"]] == pytest.approx(expected, rel=0.05)
    assert row["resampled"] == "utterances"
    assert verdict([sample("new", errors, words)]) == row  # seeded


def test_pairing_removes_what_both_arms_share():
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 5, 200)  # how hard each utterance is, for every arm
    new, base = hard + 1 + rng.normal(0, 0.1, 200), hard + rng.normal(0, 0.1, 200)
    paired = verdict([sample("new", new), sample("base", base)], minus="base")
    assert paired["high"] - paired["low"] == pytest.approx(3.92 * np.sqrt(0.02 / 200), rel=0.2)
    others = [f"v{index}" for index in range(200)]
    apart = verdict(
        [sample("new", new), sample("base", base, corpus="other", ids=others)],
        minus={"arm": "base", "corpus": "other"},
    )
    assert apart["high"] - apart["low"] == pytest.approx(3.92 * np.sqrt(50 / 200), rel=0.2)


def test_seeds_are_resampled_from_five_on_and_the_row_says_so():
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    records = [sample("new", [value] * 9, seed=seed) for seed, value in enumerate(values)]
    few, enough = verdict(records[:4]), verdict(records)
    assert few["resampled"] == "utterances"
    assert few["low"] == few["high"] == few["figure"] == 2.5  # utterances do not differ
    assert enough["resampled"] == "utterances and seeds"
    width = 3.92 * np.std(values) / np.sqrt(5)
    assert enough["high"] - enough["low"] == pytest.approx(width, rel=0.15)
    assert enough["low"] < enough["figure"] == 3 < enough["high"]


def test_values_of_a_corpus_have_a_figure_but_no_interval_over_utterances():
    gap = [dict(arm="new", seed=seed, corpus="test", collapse=0.1 * seed) for seed in range(5)]
    layers = [record | {"layer": 2, "collapse": 7.0} for record in gap[:1]]
    row_of = dict(
        arm="new", seed=0, corpus="test", language="en", num_words=4, num_utterances=1, cer=0.0
    )
    results = {"rows": [row_of | {"wer": 0.25}], "gap": gap, "gap_by_layer": layers}
    spec = dict(name="g", kind="gate", measure="collapse", corpus="test", of="new", bound="> 0.1")
    (row,) = judge(results, [spec])
    assert row["figure"] == pytest.approx(0.2)
    assert row["resampled"] == "seeds"
    (row,) = judge(results | {"gap": gap[:2]}, [spec])
    assert row["figure"] == pytest.approx(0.05)
    assert row["held"] is False
    assert row["resampled"] == "nothing"
    assert "low" not in row
    (row,) = judge(results | {"gap": gap[:2]}, [spec | {"bound": "contains 0"}])
    assert row["held"] is None
    assert "no interval of collapse" in row["missing"]
    (row,) = judge(results, [spec | {"at": {"layer": 2}}])
    assert row["figure"] == 7
    (row,) = judge(results, [spec | {"measure": "wer"}])
    assert row["figure"] == 0.25
    for name in ("seed", "note"):  # fields, but no measures
        noted = results | {"gap": [record | {"note": "text"} for record in gap]}
        (row,) = judge(noted, [spec | {"measure": name}])
        assert "in the results" in row["missing"]


@pytest.mark.parametrize(
    ("bound", "figure", "low", "high", "held"),
    [
        (">= 0.1", 0.1, 0.0, 0.2, True),
        (">= 0.1", 0.1 - 1e-9, 0.0, 0.2, False),
        ("> 0.1", 0.1, 0.0, 0.2, False),
        ("<= -1/2", -0.5, -1, 0, True),
        ("< -1/2", -0.5, -1, 0, False),
        ("== 0", 0.0, -1, 1, True),
        ("== 0", 1e-15, -1, 1, False),
        ("within [0.9, 1.1]", 1.1, 0, 2, True),
        ("within [0.9, 1.1]", 1.2, 0, 2, False),
        ("interval within [0.9, 1.1]", 1.0, 0.9, 1.1, True),
        ("interval within [0.9, 1.1]", 1.0, 0.8, 1.0, False),
        ("interval > 0", 1.0, 0.01, 2.0, True),
        ("interval > 0", 1.0, 0.0, 2.0, False),
        ("interval <= 1", 0.5, 0.0, 1.1, False),
        ("contains 1/6", 0.2, 0.1, 0.3, True),
        ("contains 1/6", 0.2, 0.17, 0.3, False),
        ("contains 1/6", 0.1, 0.05, 0.16, False),
    ],
)
def test_every_comparison(bound, figure, low, high, held):
    assert Bound.parse(bound).holds(figure, low, high) is held


@pytest.mark.parametrize(
    "bound", ["0.1", "=> 1", "within 1", "within [2, 1]", ">= 1/0", "> x", None]
)
def test_a_bound_that_cannot_be_read_is_refused(bound):
    with pytest.raises(ValueError, match="expected a bound such as"):
        Bound.parse(bound)
    with pytest.raises(ValueError, match="judges the interval anyway"):
        Bound.parse("interval contains 1")


def test_in_every_seed_is_stricter_than_pooled_and_shows_the_worst_seed():
    records = [sample("new", [value] * 3, seed=seed) for seed, value in enumerate((3, 1, -1))]
    assert verdict(records)["held"] is True
    row = verdict(records, each="seed")
    assert row["held"] is False
    assert row["figure"] == -1
    assert [(case["seed"], case["figure"], case["held"]) for case in row["cases"]] == [
        (0, 3, True),
        (1, 1, True),
        (2, -1, False),
    ]
    assert verdict(records[:2], each="seed")["held"] is True
    assert row["split"] == "each"
    assert row["compared"] == "each seed: m of new on test"


def test_seeds_that_are_judged_apart_may_have_utterances_of_their_own():
    """SALAD's selections differ by seed; over three seeds their share of a topic went unjudged."""
    other = IDS[1:4]
    records = [sample("new", [1, 2, 3]), sample("new", [4, 5, 6], seed=1, ids=other)]
    row = verdict(records, each="seed")
    assert [case["figure"] for case in row["cases"]] == [2, 5]
    assert all(case["low"] < case["figure"] < case["high"] for case in row["cases"])
    assert "different utterances" in verdict(records)["missing"]
    unpaired = [*records, sample("base", [1, 1, 1]), sample("base", [1, 1, 1], seed=1)]
    assert "different utterances" in verdict(unpaired, minus="base", each="seed")["missing"]


def test_each_and_any_split_arms_corpora_and_places():
    records = [
        sample(arm, [value], corpus=corpus, layer=layer)
        for arm, value in (("a", -1), ("b", 2))
        for corpus in ("x", "y")
        for layer in (0, 1)
    ]
    base = dict(corpus=["x", "y"], at={"layer": [0, 1]})
    row = verdict(records, **base, of=["a", "b"], any="arm")
    assert row["held"] is True
    assert row["figure"] == 2  # the best
    assert [case["arm"] for case in row["cases"]] == ["a", "b"]
    assert verdict(records, **base, of=["a", "b"], each="arm")["held"] is False
    row = verdict(records, **base, of="b", each=["corpus", "layer"])
    assert [(case["corpus"], case["layer"]) for case in row["cases"]] == [
        ("x", 0),
        ("x", 1),
        ("y", 0),
        ("y", 1),
    ]
    row = verdict(records, **base, of="b", minus="a", each="corpus")
    assert [case["figure"] for case in row["cases"]] == [3, 3]


def test_what_is_not_in_the_results_is_named_and_not_judged():
    records = [sample("new", [1, 2]), sample("base", [1, 2], seed=1)]
    for changes, message in [
        (dict(of="other"), "no m of arm other on corpus test in the results"),
        (dict(at={"layer": 3}), "no m of arm new on corpus test at layer 3"),
        (dict(minus="base"), "no seed for which all is known"),
    ]:
        row = verdict(records, **changes)
        assert row["held"] is None
        assert message in row["missing"]
        assert "figure" not in row
    other = [sample("new", [1, 2]), sample("base", [1, 2], ids=["u0", "u2"])]
    assert "different utterances of test" in verdict(other, minus="base")["missing"]
    zero = [sample("new", [1, 2]), sample("base", [0, 0])]
    assert "zero denominator" in verdict(zero, over="base")["missing"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(kind="goal"), "gate 'g': expected kind 'gate' or 'control'"),
        (dict(boundd="> 1"), "unknown key 'boundd'; did you mean 'bound'"),
        (dict(bound="high"), "expected a bound such as"),
        (dict(minus="a", over="b"), "'minus' or 'over', received both"),
        (dict(each="seed", any="arm"), "'each' or 'any', received both"),
        (dict(any="seed"), "received seed"),
        (dict(each="layre", at={"layer": [0]}), "cannot split by 'layre'; did you mean 'layer'"),
        (dict(minus={"arms": "a"}), "unknown key 'arms'; did you mean 'arm'"),
        (dict(of=3), "expected the name of an arm"),
    ],
)
def test_a_spec_that_cannot_be_read_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        verdict([], **change)


def test_missing_keys_and_names_that_come_twice_are_refused():
    spec = dict(name="g", kind="gate", measure="m", corpus="c", of="a", bound="> 0")
    with pytest.raises(ValueError, match="expected each name once"):
        parse_specs([spec, spec])
    with pytest.raises(ValueError, match=r"gates\[0\]: expected the keys name, bound"):
        parse_specs([{k: v for k, v in spec.items() if k not in ("name", "bound")}])
    with pytest.raises(ValueError, match=r"gates\[0\]: expected a mapping"):
        parse_specs(["retrieval"])


def test_samples_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="a number for each of 1 utterances, received 2"):
        sample("a", [1, 2], ids=["x"])
    for numerator, denominator, message in [
        ([1.0, float("nan")], [1, 1], "finite numbers"),
        ([1, 1], [1, -1], "at least 0"),
        ([0, 0], [0, 0], "not all of them 0"),
        ([1, 1], [1], "of one length"),
    ]:
        with pytest.raises(ValueError, match=message):
            sample("a", numerator, denominator)
    with pytest.raises(ValueError, match="map names to plain values"):
        sample("a", [1], layer=[1])


def test_the_draws_do_not_depend_on_the_block_size(monkeypatch):
    columns = np.arange(30.0).reshape(15, 2)
    whole = bootstrap.resampled_sums(columns, key=5)
    monkeypatch.setattr(bootstrap, "_BLOCK", 40)
    np.testing.assert_array_equal(bootstrap.resampled_sums(columns, key=5), whole)
    assert not np.array_equal(bootstrap.resampled_sums(columns, key=6), whole)
    assert whole.mean(axis=0) == pytest.approx(columns.sum(axis=0), rel=0.05)


SYSTEMS = """
# AI-STA
- {name: retrieval, kind: gate, measure: retrieval_pooled_mrr, corpus: held-out, at: {layer: [0, 1]},
   of: chosen, minus: base, bound: ">= 0.1"}
- {name: above random sets, kind: gate, measure: retrieval_pooled_mrr, corpus: held-out,
   at: {layer: [0, 1]}, of: chosen, minus: {arm: [random-1, random-2]}, bound: "> 0"}
- {name: shuffled transcript, kind: control, measure: retrieval_pooled_mrr, corpus: held-out,
   at: {layer: [0, 1]}, of: shuffled, minus: base, bound: "< 0.1"}
# SALAD
- {name: misalignment, kind: gate, measure: misalignment, corpus: held-out, of: alpha-1,
   minus: alpha-0, bound: "< 0", each: seed}
- {name: forgetting, kind: gate, measure: forgetting, corpus: held-out, of: alpha-1,
   minus: alpha-0, bound: "< 0", each: seed}
- {name: rises with data, kind: gate, measure: misalignment, corpus: held-out, of: alpha-0-long,
   minus: alpha-0, bound: "> 0"}
- {name: no forgetting at step 0, kind: control, measure: forgetting, corpus: held-out, of: start,
   bound: "== 0"}
- {name: audio of another utterance, kind: control, measure: misalignment, corpus: shuffled-audio,
   of: alpha-1, over: {corpus: no-audio}, bound: "within [0.9, 1.1]"}
- {name: predicted share, kind: gate, measure: withheld_share, corpus: pool, of: active,
   minus: {measure: withheld_share_predicted}, bound: "within [-0.05, 0.05]"}
- {name: gamma 0, kind: control, measure: withheld_share, corpus: pool, of: [gamma-0, permuted],
   bound: "contains 0.25", each: arm}
- {name: active, kind: gate, measure: misalignment, corpus: withheld, of: active, minus: uniform,
   bound: "< 0"}
# Behaviour imitation
- {name: unseen tasks, kind: gate, measure: agreement, corpus: unseen-tasks, of: several,
   minus: transcription, bound: ">= 0.15"}
- {name: paraphrases, kind: gate, measure: agreement, corpus: test, at: {prompt: unseen},
   of: several, minus: {at: {prompt: seen}}, bound: "within [-0.05, 0.05]"}
- {name: label prior, kind: control, measure: agreement, corpus: test, at: {task: topic},
   of: shuffled-answers, bound: "contains 1/6"}
# Self-powered
- {name: anchored, kind: gate, measure: anchor_rate, corpus: test, of: transcription,
   bound: ">= 0.8"}
- {name: of the cascade, kind: gate, measure: accuracy, corpus: test, of: self-powered,
   over: cascade, bound: ">= 0.8"}
# DeSTA2
- {name: gender and speed, kind: gate, measure: accuracy, corpus: test,
   at: {question: [gender, speed]}, of: desta, bound: ">= 0.9", each: question}
- {name: majority, kind: control, measure: accuracy, corpus: test, of: [shuffled, transcript-only],
   minus: {measure: majority_rate}, bound: "contains 0", each: arm}
# RBA
- {name: preferred, kind: gate, measure: exact_match, corpus: test, of: [single, group],
   minus: sft, bound: ">= 0.02", any: arm}
# WCN
- {name: network, kind: gate, measure: exact_match, corpus: [snr-0, snr-5, snr-10], of: wcn,
   minus: 1-best, bound: "interval > 0", each: corpus}
# ProsodyLM
- {name: permuted numbers, kind: control, measure: pairwise, corpus: test, of: permuted,
   bound: "contains 0.5"}
# TASTE
- {name: rvq, kind: gate, measure: unit_accuracy, corpus: test, of: rvq, minus: text-only,
   bound: "> 0"}
# MOSS-Speech
- {name: frozen, kind: gate, measure: text_nll, corpus: text, of: {arm: freeze}, minus: split,
   bound: "< 0"}
"""


def test_the_language_holds_the_gates_of_all_systems():
    specs = yaml.safe_load(SYSTEMS)
    parsed = parse_specs(specs)
    assert len(parsed) == len(specs)
    assert gate_measures(specs)[:3] == ["retrieval_pooled_mrr", "misalignment", "forgetting"]
    assert "majority_rate" in gate_measures(specs)
    assert "== 0" in SYSTEMS
    for row in judge({"rows": []}, specs):
        assert row["held"] is None


def test_the_examples_in_docstrings_hold():
    for module in (gates, samples):
        result = doctest.testmod(module)
        assert result.attempted > 0
        assert result.failed == 0


def test_a_gate_without_a_reason_has_none():
    assert "reason" not in verdict([sample("new", [1, 2])])
    assert verdict([sample("new", [1, 2])], reason="theirs")["reason"] == "theirs"
