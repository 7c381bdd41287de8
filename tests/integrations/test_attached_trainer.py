"""A handle under Hugging Face's Trainer and TRL's: a step's gradient does not depend on its cuts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families.base import TEXTS, waveforms
from families_at_hand import EIGHT_S, Load
from torch import Tensor
from transformers import Trainer, TrainingArguments

from otreg import OTReg, attach
from otreg.integrations import AttachedCallback, AttachedTrainer


class Rows(torch.utils.data.Dataset):
    """Numbers of utterances; the collator makes the batch."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        return index


def trained(
    load: Load,
    name: str,
    out: Path,
    batch_size: int,
    how: str,
    weight: float = 0.3,
    text: str | None = None,
    **more: Any,
) -> tuple[Tensor, list[dict[str, float]]]:
    """The weights' change by one step of plain descent over eight utterances, and the log."""
    family, model, processor = load(name)
    sounds, texts = waveforms(*EIGHT_S), [*TEXTS, *TEXTS[::-1]]

    def collate(rows: list[int]) -> dict[str, Any]:
        chosen = [texts[i] for i in rows]
        batch = family.batch(processor, [sounds[i] for i in rows], chosen)
        return batch if text is None else batch | {text: chosen}

    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    handle = attach(
        model,
        OTReg(tol=1e-5, max_iter=5000, vocabulary=20),
        weight=weight,
        processor=processor,
        text=text,
    )
    arguments = TrainingArguments(
        output_dir=str(out),
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=8 // batch_size,
        max_steps=1,
        optim="sgd",
        learning_rate=1.0,
        max_grad_norm=0.0,
        lr_scheduler_type="constant",
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    given = {"model": model, "args": arguments, "train_dataset": Rows(), "data_collator": collate}
    if how == "subclass":
        trainer: Trainer = AttachedTrainer(handle=handle, **given, **more)
    else:
        trainer = Trainer(**given, **more)
        trainer.add_callback(AttachedCallback(handle, trainer))
    trainer.train()
    handle.detach()
    assert not {"get_batch_samples", "compute_loss"} & set(vars(trainer))
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    return after - before, trainer.state.log_history


@pytest.mark.parametrize("how", ["subclass", "callback"])
@pytest.mark.parametrize("name", ["voxtral", "audioflamingo3", "qwen2_audio"])
def test_1x8_is_2x4_is_8x1(load: Load, tmp_path: Path, name: str, how: str) -> None:
    whole, log = trained(load, name, tmp_path, 8, how)
    plain, _ = trained(load, name, tmp_path, 8, how, weight=0)
    assert (
        whole - plain
    ).norm() > 0.01 * plain.norm()  # what is compared is not the model's loss alone
    for size in (4, 1):
        cut, _cut_log = trained(load, name, tmp_path, size, how)
        if (
            name == "qwen2_audio"
        ):  # its own loss is a mean of each micro-batch: only ours is compared
            cut = cut - trained(load, name, tmp_path, size, how, weight=0)[0]
            assert (cut - (whole - plain)).norm() < 1e-3 * (whole - plain).norm()
            continue
        assert (cut - whole).norm() < 1e-3 * whole.norm()
    entry = next(record for record in log if "loss" in record)
    assert entry["otreg"] > 0
    assert entry["otreg/vocabulary"] > 0


def test_a_loss_of_ones_own_is_added_to(load: Load, tmp_path: Path) -> None:
    def nothing(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        return outputs.logits.sum() * 0

    # Trainer takes the labels away then, so the transcripts come by a key of their own.
    options = {"compute_loss_func": nothing, "text": "transcripts"}
    whole, _ = trained(load, "qwen2_audio", tmp_path, 8, "subclass", **options)
    cut, _ = trained(load, "qwen2_audio", tmp_path, 1, "callback", **options)
    assert whole.norm() > 0
    assert (cut - whole).norm() < 1e-3 * whole.norm()


def test_a_training_that_was_interrupted_adds_once_afterwards(load: Load, tmp_path: Path) -> None:
    family, model, processor = load("qwen2_audio")
    handle = attach(model, OTReg(), weight=0.3, processor=processor)
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True)
    trainer = Trainer(model=model, args=arguments)
    callback = AttachedCallback(handle, trainer)
    batch = family.batch(processor, waveforms(1.0), TEXTS[:1])
    losses = []
    for _ in range(2):  # the first never ends
        callback.on_train_begin(arguments, trainer.state, trainer.control)
        losses.append(trainer.compute_loss(model, dict(batch)).item())
    callback.on_train_end(arguments, trainer.state, trainer.control)
    handle.detach()
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_forward_that_was_replaced_is_noticed(load: Load, tmp_path: Path) -> None:
    _, model, processor = load("qwen2_audio")
    handle = attach(model, OTReg(), weight=0.3, processor=processor)
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True)
    trainer = Trainer(model=model, args=arguments)
    callback = AttachedCallback(handle, trainer)
    callback.on_train_begin(arguments, trainer.state, trainer.control)
    before, model.forward = model.forward, type(model).forward.__get__(model)
    batch = load("qwen2_audio")[0].batch(processor, waveforms(1.0), TEXTS[:1])
    with pytest.raises(RuntimeError, match="did not reach attach"):
        trainer.compute_loss(model, batch)
    callback.leave()
    model.forward = before
    handle.detach()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_trls_sft_trainer_takes_the_callback(load: Load, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    family, model, processor = load("voxtral")
    sounds = waveforms(*EIGHT_S)
    rows = Dataset.from_dict({"row": list(range(8))})

    def collate(found: list[dict[str, int]]) -> dict[str, Any]:
        chosen = [row["row"] for row in found]
        texts = [[*TEXTS, *TEXTS[::-1]][row] for row in chosen]
        return family.batch(processor, [sounds[row] for row in chosen], texts)

    handle = attach(model, OTReg(), weight=0.3, processor=processor)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            max_steps=2,
            logging_steps=1,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
            bf16=False,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
            gradient_checkpointing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        train_dataset=rows,
        data_collator=collate,
        processing_class=processor,
    )
    trainer.add_callback(AttachedCallback(handle, trainer))
    trainer.train()
    handle.detach()
    entries = [record for record in trainer.state.log_history if "loss" in record]
    assert len(entries) == 2
    assert all(entry["otreg"] > 0 for entry in entries)
