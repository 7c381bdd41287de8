"""A handle on two ranks: the gradient of one process, under DistributedDataParallel and FSDP2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from families.qwen2_audio import FAMILY
from torch import Tensor

SCRIPT = Path(__file__).with_name("rank_attach.py")


def gradients(mode: str, num_ranks: int, folder: Path, out: Path) -> dict[str, Tensor]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launcher, f"--nproc_per_node={num_ranks}", str(SCRIPT), mode, str(folder), str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return torch.load(out, weights_only=True)


@pytest.mark.slow
def test_two_ranks_give_the_gradient_of_one(tmp_path: Path) -> None:
    FAMILY.save(tmp_path / "model")
    one = gradients("ddp", 1, tmp_path / "model", tmp_path / "one.pt")
    norm = torch.cat([value.flatten() for value in one.values()]).norm()
    assert norm > 0
    for mode in ("ddp", "fsdp2"):
        two = gradients(mode, 2, tmp_path / "model", tmp_path / f"{mode}.pt")
        assert two.keys() == one.keys()
        change = torch.cat([(two[name] - one[name]).flatten() for name in one]).norm()
        assert change < 1e-4 * norm, mode
