"""Curves from a log: the last word on every step, and nothing that is no training loss."""

import json

from otreg.evaluation.curves import read_curves


def write_log(path, *entries):
    path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries), encoding="utf-8")
    return path


def test_the_later_entry_of_a_step_counts_and_only_training_losses_are_read(tmp_path):
    log = write_log(
        tmp_path / "log.jsonl",
        {"stage": "a", "step": 1, "loss": 3.0},
        {"stage": "a", "step": 2, "loss": 2.0, "otreg": 0.5},
        {"stage": "a", "step": 2, "eval_loss": 9.0, "eval_ce": 9.0},
        {"stage": "a", "step": 2, "loss": 1.5, "otreg": 0.4},  # resumed from step 1
        {"stage": "b", "step": 1, "loss": 1.0, "grad_norm": float("nan")},
        {"stage": "b", "step": 1, "train_loss": 1.2, "train_runtime": 3.0},
    )
    assert read_curves(log) == [
        {"stage": "a", "step": 1, "loss": 3.0},
        {"stage": "a", "step": 2, "loss": 1.5, "otreg": 0.4},
        {"stage": "b", "step": 1, "loss": 1.0},
    ]


def test_a_line_that_was_not_finished_is_left_out_with_a_warning(tmp_path, caplog):
    log = write_log(tmp_path / "log.jsonl", {"stage": "a", "step": 1, "loss": 3.0})
    log.write_text(log.read_text() + '{"stage": "a", "st')
    assert [record["step"] for record in read_curves(log)] == [1]
    assert "log.jsonl, line 2 is not JSON" in caplog.text


def test_no_log_no_curves(tmp_path):
    assert read_curves(tmp_path / "log.jsonl") == []
