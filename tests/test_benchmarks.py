import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "transport.py"
KEYS = {
    "shape",
    "epsilon",
    "kind",
    "method",
    "seconds",
    "wall_seconds",
    "iterations",
    "marginal_error",
    "converged",
    "ratio_to_floor",
}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("benchmarks") / "transport.json"
    command = [sys.executable, SCRIPT, "--shapes", "2x20x8x16", "--epsilons", "0.05"]
    options = ["--methods", "otreg*,pot*", "--repeats", "1", "--threads", "1", "--json", path]
    result = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
    return json.loads(path.read_text()), result.stdout


def test_transport_benchmark_times_otreg_and_pot_on_both_kinds(report):
    rows = report[0]["rows"]
    assert all(set(row) >= KEYS for row in rows)
    names = {(row["kind"], row["method"]) for row in rows}
    assert {("floor", "floor"), ("whole", "otreg-auto"), ("solver", "otreg-accelerated")} <= names
    assert {("whole", "pot-batch-log"), ("solver", "pot-loop-log")} <= names
    assert all(row["seconds"] > 0 and row["ratio_to_floor"] > 0 for row in rows)


def test_transport_benchmark_says_converged_only_where_the_rule_is_met(report):
    rows = [row for row in report[0]["rows"] if row["kind"] != "floor"]
    assert all(row["converged"] == (row["marginal_error"] <= 1e-3) for row in rows)
    assert all(row["converged"] for row in rows)


def test_transport_benchmark_names_the_machine_and_prints_every_row(report):
    data, printed = report
    assert {"cpu", "threads", "versions"} <= set(data)
    assert {"platform", "torch"} <= set(data["versions"])
    assert all(f"| {row['kind']} | {row['method']} |" in printed for row in data["rows"])


def test_the_whole_loss_needs_no_more_memory_than_the_floor(tmp_path):
    path = tmp_path / "memory.json"
    command = [sys.executable, SCRIPT.with_name("transport_memory.py"), "--json", path]
    subprocess.run(command, check=True, capture_output=True)
    peaks = json.loads(path.read_text())
    assert peaks["floor"] > 100  # MiB: a normalised copy of x, its gradient and x's
    assert peaks["fused"] <= 1.2 * peaks["floor"]
