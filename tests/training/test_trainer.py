"""The trainer: accumulated gradients, weight 0, logged terms, and what is not finite."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments, set_seed

from otreg.data import SpeechTextCollator, SpeechTextDataset
from otreg.forwards import Reference, run_forwards
from otreg.model import set_trainable
from otreg.objectives import CTC, CrossEntropy, Distillation, OnPair, OTReg
from otreg.objectives.base import AlignmentOutput
from otreg.training import NonFiniteLossError, SpeechLMTrainer, TrainingCollator
from otreg.training.building import build_model
from otreg.training.config import ModelConfig
from otreg.training.objectives import WeightedObjective


@pytest.fixture
def setup(towers: tuple[Path, Path], manifest: Path) -> tuple[Any, Any, SpeechTextDataset]:
    set_seed(0)
    model, processor = build_model(
        ModelConfig(
            audio_tower=str(towers[0]),
            language_model=str(towers[1]),
            adapter_type="stack_mlp",
            adapter_stack=3,
            short_mel=True,
        )
    )
    set_trainable(model, ["adapter"])
    return model, processor, SpeechTextDataset(manifest, processor)


def make_trainer(
    setup: tuple[Any, Any, SpeechTextDataset],
    out: Path,
    *,
    batch_size: int = 8,
    accumulation: int = 1,
    batches: list[list[int]] | None = None,
    objectives: dict[str, WeightedObjective] | None = None,
    cross_entropy_weight: float = 1.0,
    **arguments: Any,
) -> SpeechLMTrainer:
    model, processor, dataset = setup
    weighted = {"cross_entropy": WeightedObjective(CrossEntropy(), cross_entropy_weight)}
    return SpeechLMTrainer(
        model=model,
        args=training_arguments(out, batch_size, accumulation, **arguments),
        data_collator=TrainingCollator(SpeechTextCollator(processor)),
        train_dataset=dataset,
        eval_dataset=dataset,
        objectives=weighted | (objectives or {}),
        reference=Reference(model),
        batch_sampler=batches,
    )


def training_arguments(
    out: Path, batch_size: int, accumulation: int, **arguments: Any
) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(out),
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        **{
            "max_steps": 1,
            "optim": "sgd",
            "learning_rate": 1.0,
            "lr_scheduler_type": "constant",
            "max_grad_norm": 0.0,
            "train_sampling_strategy": "sequential",
            "logging_steps": 1,
            "report_to": "none",
            "save_strategy": "no",
            "remove_unused_columns": False,
            "disable_tqdm": True,
            "use_cpu": True,
            "prediction_loss_only": True,
            "dataloader_pin_memory": False,
            **arguments,
        },
    )


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def step_taken(setup: Any, out: Path, **options: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The adapter's change by one step of gradient descent, and the step's log entry."""
    model = setup[0]
    before = weights(model)
    trainer = make_trainer(setup, out, **options)
    trainer.train()
    after = weights(model)
    model.load_state_dict(before)
    change = {k: after[k] - before[k] for k in after if "multi_modal_projector" in k}
    return change, trainer.state.log_history[0]


def relative_error(value: Tensor, expected: Tensor) -> float:
    return float((value - expected).norm() / expected.norm())


def both() -> dict[str, WeightedObjective]:
    return {
        "otreg": WeightedObjective(OnPair(OTReg()), 0.3),
        "ctc": WeightedObjective(OnPair(CTC()), 0.1),
    }


def everything() -> dict[str, WeightedObjective]:
    """Counted by clips and by tokens, at the adapter and at layers, with every kind of pass."""
    return {
        "layer0": WeightedObjective(OnPair(OTReg(loss="cost"), layer=0), 0.3),
        "layer1": WeightedObjective(OnPair(OTReg(loss="cost"), layer=1), 0.3),
        "distillation": WeightedObjective(Distillation(), 0.5),
        "ctc": WeightedObjective(OnPair(CTC()), 0.1),
    }


SPLITS = {
    "2x4": {"batch_size": 4, "accumulation": 2},
    "8x1": {"batch_size": 1, "accumulation": 8},
    "uneven": {"batches": [[0, 1, 2], [3], [4, 5, 6, 7]], "accumulation": 3},
}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("objectives", [both, everything])
def test_accumulated_micro_batches_make_the_step_of_one_batch(
    setup: Any, tmp_path: Path, split: str, objectives: Any
) -> None:
    whole, whole_log = step_taken(setup, tmp_path / "a", objectives=objectives())
    parts, parts_log = step_taken(setup, tmp_path / "b", objectives=objectives(), **SPLITS[split])
    for name, change in whole.items():
        assert relative_error(parts[name], change) < 1e-5
    keys = ["loss", "ce", *(key for key in whole_log if key.split("/")[0] in objectives())]
    assert len(keys) > 5
    for key in keys:
        assert parts_log[key] == pytest.approx(whole_log[key], rel=1e-4, abs=1e-7)


def test_a_last_step_of_fewer_micro_batches_is_scaled_by_what_it_holds(
    setup: Any, tmp_path: Path
) -> None:
    """8 utterances in micro-batches of 3 with accumulation 2: the second step holds the last 2."""
    options = {"objectives": both(), "learning_rate": 1e-9}
    trainer = make_trainer(setup, tmp_path, batch_size=3, accumulation=2, max_steps=2, **options)
    trainer.train()
    last = trainer.state.log_history[1]
    only = make_trainer(setup, tmp_path, batches=[[6, 7]], **options)
    only.train()
    for key in ("loss", "ce", "otreg"):
        assert last[key] == pytest.approx(only.state.log_history[0][key], rel=1e-4)


def test_the_loss_is_cross_entropy_plus_weighted_means_over_utterances(
    setup: Any, tmp_path: Path
) -> None:
    model, processor, dataset = setup
    change, log = step_taken(
        setup, tmp_path, objectives=both(), cross_entropy_weight=0.5, **SPLITS["uneven"]
    )
    batch = SpeechTextCollator(processor)([dataset[i] for i in range(8)])
    model.train()
    model.zero_grad()
    outputs = model(**batch)
    pair = run_forwards(model, batch).pair()
    otreg, ctc = OTReg()(pair).loss.mean(), CTC()(pair).loss.mean()
    loss = 0.5 * outputs.loss + 0.3 * otreg + 0.1 * ctc
    loss.backward()
    assert log["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert log["ce"] == pytest.approx(outputs.loss.item(), rel=1e-4)
    assert log["otreg"] == pytest.approx(otreg.item(), rel=1e-4)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert relative_error(change[name], -parameter.grad) < 1e-4


def test_weight_zero_is_plain_fine_tuning_to_the_bit(setup: Any, tmp_path: Path) -> None:
    model, processor, dataset = setup
    start = weights(model)
    arguments = {"optim": "adamw_torch", "learning_rate": 1e-2, "max_steps": 4, "seed": 3}
    arguments["train_sampling_strategy"] = "random"
    plain = Trainer(
        model=model,
        args=training_arguments(tmp_path, 3, 2, **arguments),
        data_collator=SpeechTextCollator(processor),
        train_dataset=dataset,
    )
    plain.train()
    expected = weights(model)
    model.load_state_dict(start)
    objectives = {
        "otreg": WeightedObjective(OnPair(OTReg()), 0.0),
        "ctc": WeightedObjective(OnPair(CTC()), 0.0),
    }
    trainer = make_trainer(
        setup, tmp_path, batch_size=3, accumulation=2, objectives=objectives, **arguments
    )
    trainer.train()
    changed = 0
    for name, value in weights(model).items():
        assert torch.equal(value, expected[name]), name
        changed += not torch.equal(value, start[name])
    assert changed > 0
    assert [e["loss"] for e in trainer.state.log_history if "loss" in e] == [
        e["loss"] for e in plain.state.log_history if "loss" in e
    ]


def test_no_gradient_reaches_the_token_embeddings_through_an_objective(
    setup: Any, tmp_path: Path
) -> None:
    model = setup[0]
    set_trainable(model, ["adapter", "language_model"])
    table = model.get_input_embeddings().weight.detach().clone()
    trainer = make_trainer(setup, tmp_path, objectives=both(), cross_entropy_weight=0.0)
    trainer.train()
    assert torch.equal(model.get_input_embeddings().weight, table)


def test_a_weight_warms_up_linearly_over_its_share_of_the_steps() -> None:
    weighted = WeightedObjective(OnPair(OTReg()), 0.5, warmup_fraction=0.2)
    assert [weighted.weight_at(step, 20) for step in (0, 1, 2, 4, 19)] == [0, 0.125, 0.25, 0.5, 0.5]
    assert WeightedObjective(OnPair(OTReg()), 0.5).weight_at(0, 20) == 0.5


@pytest.mark.parametrize("weight", [-1.0, math.inf, math.nan])
def test_a_weight_must_be_finite_and_not_negative(weight: float) -> None:
    with pytest.raises(ValueError, match="weight must be >= 0 and finite, got"):
        WeightedObjective(OnPair(OTReg()), weight)
    with pytest.raises(ValueError, match=r"warmup_fraction must be a share .*\[0, 1\], got 2"):
        WeightedObjective(OnPair(OTReg()), 0.5, warmup_fraction=2)


def test_warm_up_changes_what_trains_not_what_is_logged(setup: Any, tmp_path: Path) -> None:
    plain, plain_log = step_taken(setup, tmp_path / "a")
    objectives = {"otreg": WeightedObjective(OnPair(OTReg()), 0.5, warmup_fraction=1.0)}
    warming, log = step_taken(setup, tmp_path / "b", objectives=objectives)
    for name in plain:
        torch.testing.assert_close(warming[name], plain[name], rtol=1e-6, atol=1e-9)
    assert log["otreg"] > 0
    assert log["loss"] == pytest.approx(plain_log["loss"], rel=1e-6)


def test_evaluation_does_not_depend_on_the_size_of_its_batches(setup: Any, tmp_path: Path) -> None:
    objectives = both()
    one = make_trainer(
        setup, tmp_path, objectives=objectives, accumulation=4, per_device_eval_batch_size=8
    ).evaluate()
    many = make_trainer(
        setup, tmp_path, objectives=objectives, accumulation=4, per_device_eval_batch_size=3
    ).evaluate()
    for key in ("eval_loss", "eval_ce", "eval_otreg", "eval_ctc"):
        assert many[key] == pytest.approx(one[key], rel=1e-4)
    model, processor, dataset = setup
    batch = SpeechTextCollator(processor)([dataset[i] for i in range(8)])
    with torch.no_grad():
        assert one["eval_ce"] == pytest.approx(model.eval()(**batch).loss.item(), rel=1e-4)
    expected = one["eval_ce"] + 0.3 * one["eval_otreg"] + 0.1 * one["eval_ctc"]
    assert one["eval_loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("setting", ["step", 20])
def test_evaluation_scores_the_whole_vocabulary(setup: Any, tmp_path: Path, setting: Any) -> None:
    def evaluated(vocabulary: Any, size: int) -> dict[str, float]:
        objectives = {
            "otreg": WeightedObjective(OnPair(OTReg(vocabulary=vocabulary)), 0.3),
            "ctc": WeightedObjective(OnPair(CTC(vocabulary=vocabulary)), 0.1),
        }
        options = {"objectives": objectives, "per_device_eval_batch_size": size}
        return make_trainer(setup, tmp_path, **options).evaluate()

    expected = evaluated("all", 8)
    for size in (8, 3):
        found = evaluated(setting, size)
        for key in ("eval_loss", "eval_otreg", "eval_ctc"):
            assert found[key] == pytest.approx(expected[key], rel=1e-5)


class BadSecondRow(nn.Module):
    def forward(self, pair: Any) -> AlignmentOutput:
        loss = pair.speech.sum((1, 2)) * 0
        loss = loss + torch.where(torch.arange(len(loss)) == 1, torch.nan, 0.0)
        return AlignmentOutput(loss)


def test_an_objective_that_is_not_finite_stops_naming_step_and_utterance(
    setup: Any, tmp_path: Path
) -> None:
    before = weights(setup[0])
    objectives = {"mine": WeightedObjective(OnPair(BadSecondRow()), 1.0)}
    trainer = make_trainer(setup, tmp_path, batch_size=4, objectives=objectives)
    with pytest.raises(NonFiniteLossError, match="mine is not finite at step 1, utterances u1;"):
        trainer.train()
    for name, value in weights(setup[0]).items():
        assert torch.equal(value, before[name])


def test_bad_features_stop_naming_step_and_utterance(setup: Any, tmp_path: Path) -> None:
    model, processor, dataset = setup

    class OneBad(SpeechTextDataset):
        def __getitem__(self, index: int) -> Any:
            example = super().__getitem__(index)
            if index == 5:
                example["input_features"] = [x * float("nan") for x in example["input_features"]]
            return example

    bad = OneBad(dataset.utterances, processor)
    trainer = make_trainer((model, processor, bad), tmp_path, batch_size=4, max_steps=2)
    with pytest.raises(
        NonFiniteLossError, match="cross_entropy is not finite at step 2, utterances u5;"
    ):
        trainer.train()
    assert all(torch.isfinite(p).all() for p in model.parameters())


class InfiniteGradient(nn.Module):
    def forward(self, pair: Any) -> AlignmentOutput:
        return AlignmentOutput((pair.speech * 0).sum((1, 2)).abs().sqrt())


def test_a_gradient_that_is_not_finite_stops_before_the_step(setup: Any, tmp_path: Path) -> None:
    before = weights(setup[0])
    objectives = {"mine": WeightedObjective(OnPair(InfiniteGradient()), 1.0)}
    trainer = make_trainer(setup, tmp_path, objectives=objectives)
    with pytest.raises(NonFiniteLossError, match="the gradient's norm is nan at step 1"):
        trainer.train()
    for name, value in weights(setup[0]).items():
        assert torch.equal(value, before[name])


def test_an_objective_of_weight_zero_is_never_called(setup: Any, tmp_path: Path) -> None:
    class Refuses:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

    objectives = {"mine": WeightedObjective(Refuses(), 0.0), **both()}  # type: ignore[arg-type]
    _, log = step_taken(setup, tmp_path, objectives=objectives, cross_entropy_weight=0.0)
    assert "ce" not in log
    assert "mine" not in log


def test_cross_entropy_of_weight_zero_cannot_stop_a_run(setup: Any, tmp_path: Path) -> None:
    """An infinite logit is cross-entropy's affair alone."""
    model = setup[0]
    head = model.language_model.lm_head
    hook = head.register_forward_hook(lambda module, args, output: output * float("nan"))
    _, log = step_taken(setup, tmp_path, objectives=both(), cross_entropy_weight=0.0)
    hook.remove()
    assert log["loss"] > 0


def test_the_reference_is_the_model_at_the_stages_start(setup: Any, tmp_path: Path) -> None:
    """Forgetting is exactly 0 at step 0 and grows; the reference itself stays where it was."""
    model, processor, dataset = setup
    set_trainable(model, ["adapter", "language_model"])
    reference = Reference(model)
    batch = SpeechTextCollator(processor)([dataset[i] for i in range(4)])
    needs = {"text", "reference_text", "reference_speech"}
    before = run_forwards(model.eval(), batch, needs=needs, reference=reference)
    assert torch.equal(before.text.logits, before.reference_text.logits)
    assert torch.equal(before.speech.logits, before.reference_speech.logits)
    make_trainer(setup, tmp_path, max_steps=2).train()
    after = run_forwards(model.eval(), batch, needs=needs, reference=reference)
    assert torch.equal(after.reference_text.logits, before.text.logits)
    assert torch.equal(after.reference_speech.logits, before.speech.logits)
    assert not torch.equal(after.text.logits, before.text.logits)
    assert not any(p.grad is not None and not p.requires_grad for p in model.parameters())


def test_training_leaves_a_copied_start_alone(setup: Any, tmp_path: Path) -> None:
    start = copy.deepcopy(weights(setup[0]))
    make_trainer(setup, tmp_path, max_steps=2).train()
    frozen = [name for name in start if "multi_modal_projector" not in name]
    assert frozen
    now = weights(setup[0])
    assert all(torch.equal(now[name], start[name]) for name in frozen)


class Drift(nn.Module):
    """An objective as an outsider would write it: the speech embeddings' mean square."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, pair: Any) -> AlignmentOutput:
        return AlignmentOutput(self.scale * pair.speech.square().mean((1, 2)))
