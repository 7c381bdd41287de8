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
    load: Load, name: str, out: Path, batch_size: int, how: str, weight: float = 0.3, **more: Any
) -> tuple[Tensor, list[dict[str, float]]]:
    """The weights' change by one step of plain descent over eight utterances, and the log."""
    family, model, processor = load(name)
    sounds, texts = waveforms(*EIGHT_S), [*TEXTS, *TEXTS[::-1]]

    def collate(rows: list[int]) -> dict[str, Any]:
        return family.batch(processor, [sounds[i] for i in rows], [texts[i] for i in rows])

    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    handle = attach(
        model, OTReg(tol=1e-5, max_iter=5000, vocabulary=20), weight=weight, processor=processor
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
    assert "get_batch_samples" not in vars(trainer)
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


def test_losses_of_ones_own_are_refused(load: Load, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="in place of the model's"):
        trained(load, "voxtral", tmp_path, 8, "subclass", compute_loss_func=lambda *a, **k: None)
