"""Two ranks make the step that one process makes, on every kind of objective at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("rank_step.py")


@pytest.fixture(autouse=True)
def _folders(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()


def step(towers: tuple[Path, Path], manifest: Path, out: Path, ranks: int, batch_size: int) -> dict:
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}", "--standalone"]
    command = [*launcher, str(SCRIPT), str(towers[0].parent), str(manifest), str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(batch_size)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out, weights_only=True)


def test_two_ranks_make_the_step_of_one_process(towers, manifest, tmp_path):
    one = step(towers, manifest, tmp_path / "one" / "step.pt", 1, 8)
    two = step(towers, manifest, tmp_path / "two" / "step.pt", 2, 4)
    for name, change in one["change"].items():
        assert float((two["change"][name] - change).norm() / change.norm()) < 1e-5, name
    keys = [key for key in one["log"] if key.split("/")[0] in ("ce", "ctc", "layer0", "step")]
    assert len(keys) > 6
    for key in ["loss", "layer1", "distillation", *keys]:
        assert two["log"][key] == pytest.approx(one["log"][key], rel=1e-4, abs=1e-6)
