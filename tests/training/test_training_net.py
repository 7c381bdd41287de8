"""What a run must keep, seen from outside: configuration in, log and model out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import run_config, save_corpus, stage
from torch import Tensor, nn
from transformers import TrainingArguments

from otreg import AlignmentOutput
from otreg.data import SpeechTextCollator, SpeechTextDataset
from otreg.model import SpeechLMForConditionalGeneration, SpeechLMProcessor
from otreg.objectives import CrossEntropy, OnPair
from otreg.training import (
    ConfigError,
    NonFiniteLossError,
    SpeechLMTrainer,
    TrainingCollator,
    config_from_dict,
    load_model,
    train,
)
from otreg.training.objectives import WeightedObjective

Towers = tuple[Path, Path]
QUIET = {"use_cpu": True, "logging_steps": 1}
HEAD = {"type": "ctc", "weight": 0.1, "options": {"tied": False}}


def run(config: dict[str, Any], out: Path, **options: Any) -> dict[str, Tensor]:
    """Train and load the result's weights from disk."""
    folder = train(config_from_dict(config), out, quiet=True, **options)
    return load_model(str(folder))[0].state_dict()


def log_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def steps_of(out: Path) -> list[dict[str, Any]]:
    """The log's entries of optimiser steps."""
    return [entry for entry in log_of(out) if "loss" in entry]


def plain_step(**changes: Any) -> dict[str, Any]:
    """A stage of one step of plain gradient descent: the change is -learning_rate * gradient."""
    options = {
        "steps": 1,
        "batch_size": 8,
        "learning_rate": 1.0,
        "optimizer": "sgd",
        "scheduler": "constant",
        "warmup_fraction": 0.0,
        "max_grad_norm": 0.0,
    }
    return stage(**(options | changes))


@pytest.fixture(scope="module")
def start(
    towers: Towers, manifest: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Tensor]:
    """The weights that every run over the tiny towers starts from."""
    config = run_config(towers, manifest, [plain_step(learning_rate=1e-30)])
    return run(config, tmp_path_factory.mktemp("start") / "run")


def change_by(config: dict[str, Any], out: Path, start: dict[str, Tensor]) -> dict[str, Tensor]:
    """How a run moves every weight that it moves."""
    final = run(config, out)
    return {k: final[k] - start[k] for k in start if not torch.equal(final[k], start[k])}


def norm(change: dict[str, Tensor]) -> float:
    return float(torch.cat([value.flatten().double() for value in change.values()]).norm())


# The optimiser's settings reach the optimiser.


@pytest.mark.parametrize(
    ("scheduler", "warmup_fraction", "expected"),
    [
        ("constant", 0.0, [1.0, 1.0, 1.0, 1.0]),
        ("linear", 0.0, [1.0, 0.75, 0.5, 0.25]),
        ("linear", 0.5, [0.0, 0.5, 1.0, 0.5]),
        ("cosine", 0.5, [0.0, 0.5, 1.0, 0.5]),
        ("cosine", 0.0, [1.0, 0.853553, 0.5, 0.146447]),
    ],
)
def test_the_learning_rate_follows_scheduler_and_warm_up(
    towers: Towers,
    manifest: Path,
    tmp_path: Path,
    scheduler: str,
    warmup_fraction: float,
    expected: list[float],
) -> None:
    one = stage(steps=4, learning_rate=1e-3, scheduler=scheduler, warmup_fraction=warmup_fraction)
    run(run_config(towers, manifest, [one]), tmp_path)
    rates = [entry["learning_rate"] / 1e-3 for entry in steps_of(tmp_path)]
    assert rates == pytest.approx(expected, abs=1e-5)


def test_a_gradient_is_clipped_to_max_grad_norm_and_to_nothing_by_zero(
    towers: Towers, manifest: Path, tmp_path: Path, start: dict[str, Tensor]
) -> None:
    whole = change_by(run_config(towers, manifest, [plain_step()]), tmp_path / "whole", start)
    gradient = steps_of(tmp_path / "whole")[0]["grad_norm"]
    assert norm(whole) == pytest.approx(gradient, rel=1e-3)
    limit = gradient / 4
    clipped = change_by(
        run_config(towers, manifest, [plain_step(max_grad_norm=limit)]), tmp_path / "clip", start
    )
    assert norm(clipped) == pytest.approx(limit, rel=1e-3)
    for name, value in clipped.items():
        torch.testing.assert_close(4 * value, whole[name], rtol=1e-2, atol=1e-5)


def test_weight_decay_pulls_the_matrices_that_train(
    towers: Towers, manifest: Path, tmp_path: Path, start: dict[str, Tensor]
) -> None:
    plain, decayed = (
        change_by(
            run_config(towers, manifest, [plain_step(weight_decay=decay)]),
            tmp_path / str(decay),
            start,
        )
        for decay in (0.0, 0.5)
    )
    matrices = [name for name in plain if start[name].dim() == 2]
    assert matrices
    for name in matrices:
        torch.testing.assert_close(
            decayed[name] - plain[name], -0.5 * start[name], rtol=1e-3, atol=1e-5
        )


def test_the_weight_of_cross_entropy_reaches_gradient_and_loss_but_not_its_log(
    towers: Towers, manifest: Path, tmp_path: Path, start: dict[str, Tensor]
) -> None:
    whole = change_by(run_config(towers, manifest, [plain_step()]), tmp_path / "whole", start)
    half_stage = plain_step(objectives={"cross_entropy": {"weight": 0.5}})
    half = change_by(run_config(towers, manifest, [half_stage]), tmp_path / "half", start)
    assert half.keys() == whole.keys()
    for name, value in half.items():
        torch.testing.assert_close(2 * value, whole[name], rtol=1e-3, atol=1e-6)
    one, other = steps_of(tmp_path / "whole")[0], steps_of(tmp_path / "half")[0]
    assert one["loss"] == pytest.approx(one["ce"], rel=1e-5)
    assert other["ce"] == pytest.approx(one["ce"], rel=1e-5)
    assert other["loss"] == pytest.approx(0.5 * one["ce"], rel=1e-5)


def test_the_loss_is_the_weighted_sum_of_what_is_logged(
    towers: Towers, manifest: Path, tmp_path: Path
) -> None:
    objectives = {"cross_entropy": {"weight": 0.5}, "otreg": {"weight": 0.3}, "head": HEAD}
    run(run_config(towers, manifest, [stage(objectives=objectives)]), tmp_path)
    for entry in steps_of(tmp_path):
        expected = 0.5 * entry["ce"] + 0.3 * entry["otreg"] + 0.1 * entry["head"]
        assert entry["loss"] == pytest.approx(expected, rel=1e-4)


# What has weight 0 is not computed.


class Refuses(nn.Module):
    """An objective that must not be called."""

    def forward(self, pair: Any) -> AlignmentOutput:
        raise AssertionError("an objective of weight 0 was called")


def test_an_objective_of_weight_zero_is_never_called(
    towers: Towers, manifest: Path, tmp_path: Path
) -> None:
    zero = {"mine": {"weight": 0, "type": "test_training_net:Refuses"}}
    config = run_config(towers, manifest, [stage(objectives=zero)])
    config["data"]["validation"] = [str(manifest)]
    run(config, tmp_path)
    assert not [key for entry in log_of(tmp_path) for key in entry if "mine" in key]
    config["stages"][0]["objectives"]["mine"]["weight"] = 1e-9
    with pytest.raises(AssertionError, match="was called"):
        run(config, tmp_path / "called")


def test_the_trainer_calls_no_objective_of_weight_zero(
    towers: Towers, manifest: Path, tmp_path: Path
) -> None:
    """Also where no configuration has left it out before."""
    model = SpeechLMForConditionalGeneration.from_towers(*towers, short_mel=True)
    processor = SpeechLMProcessor.from_config(model.config, *towers)
    trainer = SpeechLMTrainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=1,
            remove_unused_columns=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
            prediction_loss_only=True,
        ),
        data_collator=TrainingCollator(SpeechTextCollator(processor)),
        train_dataset=SpeechTextDataset(manifest, processor),
        eval_dataset=SpeechTextDataset(manifest, processor),
        objectives={
            "cross_entropy": WeightedObjective(CrossEntropy(), 1.0),
            "mine": WeightedObjective(OnPair(Refuses()), 0.0),
        },
    )
    trainer.train()
    trainer.evaluate()
    assert not [key for entry in trainer.state.log_history for key in entry if "mine" in key]


class IsNeverBuilt(nn.Module):
    """An objective that must not even be made."""

    def __init__(self) -> None:
        raise AssertionError("an objective of weight 0 was made")


def test_an_objective_of_weight_zero_is_not_even_made(
    towers: Towers, manifest: Path, tmp_path: Path
) -> None:
    zero = {"mine": {"weight": 0, "type": "test_training_net:IsNeverBuilt"}}
    assert run(run_config(towers, manifest, [stage(objectives=zero)]), tmp_path)


def test_the_weight_of_an_objective_warms_up_as_configured(
    towers: Towers, manifest: Path, tmp_path: Path
) -> None:
    """Linearly, from 0, over the first half of four steps."""
    objectives = {"otreg": {"weight": 0.3, "warmup_fraction": 0.5}}
    run(run_config(towers, manifest, [stage(steps=4, objectives=objectives)]), tmp_path)
    weights = [(entry["loss"] - entry["ce"]) / entry["otreg"] for entry in steps_of(tmp_path)]
    assert weights == pytest.approx([0.0, 0.15, 0.3, 0.3], abs=1e-4)


@pytest.fixture
def towers_with_a_nan(towers: Towers, tmp_path: Path) -> Towers:
    """A language model whose last norm is NaN: its logits are, its embeddings are not."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(towers[1], tmp_path / "language_model")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"].fill_(float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return towers[0], folder


def test_cross_entropy_of_weight_zero_is_not_computed(
    towers_with_a_nan: Towers, manifest: Path, tmp_path: Path
) -> None:
    objectives = {"cross_entropy": {"weight": 0}, "otreg": {"weight": 1}}
    config = run_config(towers_with_a_nan, manifest, [stage(objectives=objectives)])
    final = run(config, tmp_path / "run")
    adapter = [value for name, value in final.items() if "multi_modal_projector" in name]
    assert all(torch.isfinite(value).all() for value in adapter)
    entries = steps_of(tmp_path / "run")
    assert len(entries) == 2
    assert not [entry for entry in entries if "ce" in entry]


def test_cross_entropy_with_a_weight_stops_at_a_nan(
    towers_with_a_nan: Towers, manifest: Path, tmp_path: Path
) -> None:
    objectives = {"cross_entropy": {"weight": 1e-6}, "otreg": {"weight": 1}}
    config = run_config(towers_with_a_nan, manifest, [stage(objectives=objectives)])
    with pytest.raises(NonFiniteLossError, match="cross_entropy is not finite at step 1"):
        run(config, tmp_path / "run")


# The vocabulary is a fixed target, whoever wrote the objective.


class PullsAtTheTable(nn.Module):
    """An objective that tries to move everything of the language model that a pair holds."""

    def forward(self, pair: Any) -> AlignmentOutput:
        fixed = pair.embedding_table.square().sum() + pair.text.square().sum()
        return AlignmentOutput(
            pair.speech.square().mean((1, 2)) + fixed + pair.pad_embedding.square().sum()
        )


def test_no_objective_of_ones_own_moves_the_token_embeddings(
    towers: Towers, manifest: Path, tmp_path: Path, start: dict[str, Tensor]
) -> None:
    pulls = {"weight": 1, "type": "test_training_net:PullsAtTheTable"}
    one = plain_step(
        train=["adapter", "language_model"],
        objectives={"cross_entropy": {"weight": 1e-12}, "mine": pulls},
    )
    final = run(run_config(towers, manifest, [one]), tmp_path)
    moved = {name for name in final if not torch.allclose(final[name], start[name], atol=1e-9)}
    assert moved
    assert all(name.startswith("multi_modal_projector") for name in moved)


# Heads of objectives.


def test_two_objectives_of_one_kind_start_from_different_heads(
    towers: Towers, manifest: Path, tmp_path: Path
) -> None:
    stages = [stage(objectives={"one": HEAD, "two": HEAD})]
    run(run_config(towers, manifest, stages), tmp_path / "a")
    first = steps_of(tmp_path / "a")[0]
    assert first["one"] != pytest.approx(first["two"], rel=1e-3)
    stages = [stage(objectives={"two": HEAD})]  # a head depends on its own name alone
    run(run_config(towers, manifest, stages), tmp_path / "b")
    assert steps_of(tmp_path / "b")[0]["two"] == pytest.approx(first["two"], rel=1e-6)


# Evaluation during training.


def token_mean(model: Any, processor: Any, manifest: Path) -> float:
    """Cross-entropy over a corpus, one utterance at a time: sum over labelled tokens / number."""
    dataset = SpeechTextDataset(manifest, processor)
    collate = SpeechTextCollator(processor)
    total, count = 0.0, 0
    with torch.no_grad():
        for index in range(len(dataset)):
            batch = collate([dataset[index]])
            labelled = int((batch["labels"] != -100).sum())
            total += labelled * float(model.eval()(**batch).loss)
            count += labelled
    return total / count


@pytest.fixture(scope="module")
def ragged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five utterances whose transcripts differ in length."""
    return save_corpus(tmp_path_factory.mktemp("ragged"), num_utterances=5, seed=3)


def evaluated(
    towers: Towers, manifest: Path, ragged: Path, out: Path, batch_size: int
) -> tuple[dict[str, Any], float]:
    """The log's entry of the validation corpus, and the token mean of the saved model."""
    trainer = QUIET | {"per_device_eval_batch_size": batch_size}
    one = stage(steps=1, objectives={"otreg": {"weight": 0.3}}, trainer=trainer)
    config = run_config(towers, manifest, [one])
    config["data"]["validation"] = [str(ragged)]
    run(config, out)
    entry = next(entry for entry in log_of(out) if "eval_ce" in entry)
    return entry, token_mean(*load_model(str(out)), ragged)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_eval_ce_is_the_mean_over_labelled_tokens_whatever_the_batches(
    towers: Towers, manifest: Path, ragged: Path, tmp_path: Path, batch_size: int
) -> None:
    entry, expected = evaluated(towers, manifest, ragged, tmp_path, batch_size)
    assert entry["eval_ce"] == pytest.approx(expected, rel=1e-5)


def test_an_objectives_evaluation_does_not_depend_on_the_batches(
    towers: Towers, manifest: Path, ragged: Path, tmp_path: Path
) -> None:
    by_two, _ = evaluated(towers, manifest, ragged, tmp_path / "a", 2)
    by_five, _ = evaluated(towers, manifest, ragged, tmp_path / "b", 5)
    assert by_two["eval_otreg"] == pytest.approx(by_five["eval_otreg"], rel=1e-5)
    assert by_two["eval_otreg/cost"] == pytest.approx(by_five["eval_otreg/cost"], rel=1e-5)


def test_a_missing_validation_manifest_is_said_before_anything_loads(
    towers: Towers, manifest: Path, tmp_path: Path
) -> None:
    config = run_config(towers, manifest, [stage()])
    config["data"]["validation"] = [str(manifest), str(tmp_path / "none.jsonl")]
    with pytest.raises(ConfigError, match=r"no such manifest: '.*none\.jsonl'"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Resuming.


def test_the_newest_checkpoint_is_resumed(towers: Towers, manifest: Path, tmp_path: Path) -> None:
    """Of 1 … 10: by number, not by name, where 9 comes last."""
    trainer = QUIET | {"save_steps": 1, "save_total_limit": None}
    config = run_config(
        towers, manifest, [stage("first"), stage("second", steps=11, trainer=trainer)]
    )
    expected = run(config, tmp_path)
    shutil.rmtree(tmp_path / "model")
    shutil.rmtree(tmp_path / "stage-second" / "checkpoint-11")
    before = len(log_of(tmp_path))
    final = run(config, tmp_path, resume=True)
    again = [(e["stage"], e["step"]) for e in log_of(tmp_path)[before:] if "loss" in e]
    assert again == [("second", 11)]
    assert all(torch.equal(final[name], expected[name]) for name in expected)
