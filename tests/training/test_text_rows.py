"""Rows without speech: micro-batches of them alone train, and change no step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import run_config, stage

from otreg.model.loading import load_model
from otreg.training import config_from_dict, train


@pytest.fixture(scope="module")
def mixed(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rows with speech, two without."""
    lines = manifest.read_text().splitlines()[:2]
    for number in range(2):
        turns = [("user", "one two"), ("assistant", "three")]
        row = {"id": f"t{number}", "messages": [{"role": r, "content": c} for r, c in turns]}
        lines.append(json.dumps(row | {"language": "en"}))
    path = manifest.with_name("mixed.jsonl")
    path.write_text("".join(line + "\n" for line in lines))
    return path


def stage_of(**changes: Any) -> dict[str, Any]:
    """One step of plain gradient descent over four rows, in their order."""
    options = {"steps": 1, "optimizer": "sgd", "scheduler": "constant", "max_grad_norm": 0.0}
    trainer = {"logging_steps": 1, "use_cpu": True, "train_sampling_strategy": "sequential"}
    return stage(**(options | {"trainer": trainer} | changes))


def adapter(config: dict[str, Any], out: Path) -> tuple[torch.Tensor, dict[str, Any]]:
    """The adapter's weights in a row, and the step's log entry."""
    model, _ = load_model(str(train(config_from_dict(config), out, quiet=True)))
    entries = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    weights = [weight.flatten() for weight in model.multi_modal_projector.parameters()]
    return torch.cat(weights).detach(), next(e for e in entries if "loss" in e)


@pytest.mark.parametrize("train_groups", [["adapter"], ["adapter", "language_model"]])
def test_micro_batches_of_text_alone_make_the_step_of_one_batch(
    towers: tuple[Path, Path], mixed: Path, tmp_path: Path, train_groups: list[str]
) -> None:
    found = []
    for size in (4, 1):
        objectives = {"otreg": {"weight": 0.3}}
        one = stage_of(batch_size=size, train=train_groups, objectives=objectives)
        one["gradient_accumulation_steps"] = 4 // size
        found.append(adapter(run_config(towers, mixed, [one]), tmp_path / str(size)))
    (whole, whole_log), (parts, parts_log) = found
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)
    for name in ("loss", "ce", "otreg"):
        assert parts_log[name] == pytest.approx(whole_log[name], rel=1e-4)


def test_a_step_of_text_alone_leaves_the_adapter_as_it_is(
    towers: tuple[Path, Path], mixed: Path, tmp_path: Path
) -> None:
    lines = mixed.read_text().splitlines()
    text = mixed.with_name("text.jsonl")
    text.write_text("".join(line + "\n" for line in lines[2:] + lines[:2]))
    found = []
    for rate in (1.0, 1e-30):
        config = run_config(towers, text, [stage_of(batch_size=2, learning_rate=rate)])
        found.append(adapter(config, tmp_path / str(rate))[0])
    assert torch.equal(*found)
