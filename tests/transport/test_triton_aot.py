"""The Triton kernel compiles for GPUs that this machine need not have."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_triton import needs_triton

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # A process of its own: the tests' own triton may be the interpreter.
    return subprocess.run(
        [sys.executable, BENCHMARKS / script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},  # the same with a GPU as without
    )


@needs_triton
@pytest.mark.parametrize("options", [[], ["--relaxed"], ["--float64"]])
@pytest.mark.parametrize("arch", [80, 90])
def test_it_compiles_and_float32_spills_no_registers(arch: int, options: list[str]) -> None:
    done = run("triton_aot.py", "--arch", str(arch), "--sizes", "375x80", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    row = re.search(
        rf"^sm_{arch} +375x80 +\S+ +\d+ +(\d+) +(\d+) +(\d+) +(\d+)$", done.stdout, re.M
    )
    assert row, done.stdout
    registers, spill_stores, spill_loads, shared = (int(x) for x in row.groups())
    assert 0 < registers <= 255
    if "--float64" not in options:  # the solver's own type; float64 is for checks
        assert (spill_stores, spill_loads) == (0, 0)
    assert shared <= 48 * 1024  # what every GPU has


@needs_triton
def test_what_does_not_compile_is_reported() -> None:
    done = run("triton_aot.py", "--arch", "90", "--sizes", f"1x{2**21}")
    assert done.returncode == 1
    assert "did not compile" in done.stdout


def test_timing_without_a_gpu_says_so() -> None:
    done = run("transport_gpu.py")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [
        "transport_gpu: no CUDA GPU here; nothing was measured"
    ]
