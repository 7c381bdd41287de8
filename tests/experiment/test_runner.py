"""An experiment from end to end, at a size at which nothing is learned but everything is reached."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from otreg.experiment.reading import load_experiment
from otreg.experiment.runner import run_experiment
from otreg.training.config import load_config
from otreg.training.yaml_config import ConfigError

pytest.importorskip("espeakng_loader")

TINY = """
inherits: otreg
title: Tiny
corpora: {tower_utterances: 8, train_utterances: 4, test_utterances: 2, text_sentences: 5}
towers:
  hidden_size: 16
  encoder_layers: 1
  num_mels: 16
  encoder_epochs: 1
  language_model_layers: 1
  vocab_size: 60
  language_model_steps: 3
run: {stages: {adapt: {steps: 2}, align: {steps: 2}}}
prepare:
  wrong: {program: shuffled-text, from: train}
controls:
  wrong: ["data.train=[wrong]"]
measures:
  layers: {corpora: [in-domain], options: {layers: [0, 1]}}
  divergences:
    corpora: [in-domain]
    options: {text_words: [1, 2], speech_words: [1, 2]}
gates:
  - name: nearer
    kind: gate
    measure: retrieval_pooled_mrr
    corpus: in-domain
    at: {layer: [0, 1]}
    of: best
    minus: base
    bound: "interval > 1"
  - name: remembers
    kind: gate
    measure: forgetting
    corpus: in-domain
    at: {audio: "true"}
    of: best
    bound: ">= 0"
  - {name: fewer errors, kind: gate, measure: wer, corpus: all, of: best, minus: base, bound: "< 0"}
  - {name: nothing learned, kind: control, measure: wer, corpus: all, of: wrong, bound: ">= 0.5"}
  - {name: not run, kind: gate, measure: wer, corpus: all, of: ctc, bound: "< 0"}
"""
CORPORA = {"in-domain", "voices", "rate", "noise", "templates", "all"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def finished(tiny: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The output folder of `otreg demo tiny.yaml`, and what the command said."""
    code = "import sys; from otreg.cli import main; sys.exit(main(sys.argv[1:]))"
    script = tiny.with_name("run.py")  # workers import the main script anew
    script.write_text(f"if __name__ == '__main__':\n    {code}\n")
    out = tiny.with_name("out")
    command = [sys.executable, str(script), "demo", str(tiny), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--arms", "best,wrong"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return out, done


@pytest.fixture(scope="module")
def results(finished: tuple[Path, Any]) -> dict[str, Any]:
    return json.loads((finished[0] / "results.json").read_text())


def test_every_arm_is_measured_on_every_corpus(results: dict[str, Any]) -> None:
    rows = {(r["arm"], r["corpus"], r["language"]): r for r in results["rows"]}
    arms = ("base", "best", "wrong")
    languages = ("en", "es", "de")
    assert rows.keys() == {(a, c, lang) for a in arms for c in CORPORA for lang in languages}
    for (_, corpus, _), row in rows.items():
        assert row["domain"] == ("in" if corpus == "in-domain" else "out")
        assert row["num_utterances"] == 2
        assert row["num_words"] > 0
        assert row["wer"] >= 0
    assert {(g["arm"], g["corpus"]) for g in results["gap"]} == {
        (a, c) for a in arms for c in CORPORA
    }
    for measures in results["gap"]:
        assert measures.keys() >= {"coverage", "nearest_token", "centroid_distance", "collapse"}
    curves = {(c["arm"], c["stage"], c["step"]) for c in results["curves"]}
    assert {(arm, stage, 1) for arm in arms for stage in ("adapt", "align")} <= curves


def test_the_results_say_what_was_run(results: dict[str, Any], tiny: Path) -> None:
    assert results["experiment"] == "tiny"
    assert results["base_arm"] == "base"
    out = tiny.with_name("out")
    assert results["command"] == f"otreg demo {tiny} --out {out} --arms best,wrong"
    config = results["config"]
    assert config["corpora"]["train_utterances"] == 4
    assert config["run"]["stages"][0]["steps"] == 2
    assert set(config["arms"]) == {"base", "best", "wrong"}
    assert (config["seeds"], config["split"]) == (1, "test")
    assert results["arm_descriptions"].keys() == {"base", "best"}
    assert results["seconds"]["stage adapt of base (seed 0)"] >= 0
    assert {"versions", "machine", "normaliser"} <= results.keys()


def test_gates_and_controls_are_rows_of_the_results(results: dict[str, Any]) -> None:
    gates = {gate["name"]: gate for gate in results["gates"]}
    assert [spec["name"] for spec in results["gate_specs"]] == list(gates)
    assert gates["fewer errors"]["kind"] == "gate"
    assert gates["fewer errors"]["held"] in (True, False)
    control = gates["nothing learned"]
    assert (control["kind"], control["held"]) == ("control", control["figure"] >= 0.5)
    assert gates["not run"]["held"] is None
    assert gates["nearer"]["held"] is False
    assert gates["nearer"]["resampled"] == "utterances"
    assert gates["remembers"]["held"] is True
    assert {record["layer"] for record in results["gap_by_layer"]} == {0, 1}
    measures = {sample["measure"] for sample in results["samples"]}
    assert measures == {"wer", "retrieval_pooled_mrr", "misalignment", "forgetting"}


def test_the_page_names_the_experiment_and_its_arms(finished: tuple[Path, Any]) -> None:
    page = (finished[0] / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "Tiny" in page
    assert "wrong" in page


def test_stderr_holds_progress_lines_and_each_warning_once(finished: tuple[Path, Any]) -> None:
    said = finished[1].stderr
    assert "Loading weights" not in said
    assert "Writing model shards" not in said
    assert "it/s" not in said
    lines = [line for line in said.replace("\r", "\n").splitlines() if line.strip()]
    told = [line for line in lines if re.match(r" *\d+ s  ", line)]
    assert any("stage adapt of base (seed 0), wrong" in line for line in told) is False
    assert any(line.endswith("stage adapt of best (seed 0)") for line in told)
    others = [line for line in lines if line not in told]
    messages = " ".join(" ".join(others).split())
    for message in re.split(r"\d\d:\d\d:\d\d ", messages):
        assert len(message) < 30 or messages.count(message.strip()) == 1, message
    assert len(others) < 20, others


def test_runs_lie_under_their_arms_names(finished: tuple[Path, Any]) -> None:
    run = finished[0] / "runs" / "best-seed0"
    config = load_config(run / "config.yaml")
    assert [stage.name for stage in config.stages] == ["align"]
    assert (run / "model" / "config.json").is_file()
    assert not run.readlink().is_absolute()


def test_what_is_finished_is_kept_and_other_data_train_another_model(
    finished: tuple[Path, Any], tiny: Path
) -> None:
    """The demo once kept runs by their path, and gave old results for new training data."""
    out = finished[0]
    model = out / "runs" / "base-seed0" / "model" / "model.safetensors"
    weights = model.read_bytes()
    told: list[str] = []
    run_experiment(tiny, out, arms=["base"], progress=told.append)
    assert all("kept" in line for line in told if "report" not in line)
    assert model.read_bytes() == weights
    other = tiny.with_name("other.yaml")
    other.write_text("inherits: tiny.yaml\ncorpora: {train_utterances: 5}\n")
    told.clear()
    run_experiment(other, out, arms=["base"], progress=told.append)
    assert sum("trained" in line and "kept" in line for line in told) == 2  # both towers
    assert [line for line in told if "stage adapt" in line and "kept" not in line]
    assert model.read_bytes() != weights


def test_an_unknown_arm_or_split_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown arm 'otregg'.*otreg"):
        run_experiment("otreg", tmp_path, arms=["otregg"])
    with pytest.raises(ConfigError, match=r"unknown split 'dev': expected development or test"):
        run_experiment(load_experiment("otreg"), tmp_path, split="dev")
    assert not list(tmp_path.iterdir())


def test_two_runs_cannot_work_in_one_folder(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(ValueError, match="another process works in"):
        run_experiment("otreg", tmp_path, arms=["base"])
