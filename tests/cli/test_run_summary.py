"""What `otreg train` says at its end, from a run's log."""

from __future__ import annotations

import json

from otreg.cli.run_summary import summary_lines
from otreg.training.run_folder import RunFolder


def test_a_loss_may_be_a_whole_number(tmp_path) -> None:
    log = RunFolder(tmp_path).log
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(json.dumps({"stage": "a", "step": 3, "loss": 2, "ce": 1.5}) + "\n")
    assert summary_lines(tmp_path, ["a"])[1:] == ["  training: loss 2, ce 1.5"]
