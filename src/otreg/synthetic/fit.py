"""What both towers share: sizes and budgets, and one pass of Hugging Face's Trainer."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from otreg.synthetic.muon import Muon


@dataclass(frozen=True)
class MiniatureSettings:
    """Sizes and budgets of the two towers.

    Attributes:
        hidden_size: width of both towers.
        units: what the encoder learns to tell apart, "characters" of the transcripts or their
            "phonemes" by espeak-ng (extra `demo`; easier to learn, in its languages).
        encoder_layers: layers of the encoder.
        num_mels: mel bands.
        hop_length: samples between feature frames; the encoder halves their rate.
        encoder_epochs: passes over the manifests.
        encoder_batch_size: utterances in a step.
        encoder_learning_rate: peak, of AdamW.
        encoder_muon_learning_rate: peak, of Muon.
        language_model_layers: layers of the language model.
        vocab_size: size of the byte-pair vocabulary, special tokens included (fewer where the text
            has fewer merges to offer).
        language_model_steps: optimiser steps.
        language_model_batch_size: sentences in a step.
        language_model_learning_rate: peak.
        deletion: share of tokens that the noisy copy X~ lacks.
        substitution: share of tokens that X~ has replaced by random ones.
        repetition: chance that a token of X~ stands twice, as sounds stand over several frames.
        mixture: shares of the kinds of examples that the language model learns from; see
            `otreg.synthetic.examples`.
        random_tokens: share of examples that copy random tokens, at the first step; none from the
            middle on.
        random_words: share of sentences that are the text's words in random order.
        learn_transcripts: the language model learns the manifests' transcripts beside the text.
    """

    hidden_size: int = 128
    units: Literal["characters", "phonemes"] = "characters"
    encoder_layers: int = 3
    num_mels: int = 48
    hop_length: int = 320
    encoder_epochs: int = 6
    encoder_batch_size: int = 16
    encoder_learning_rate: float = 2e-3
    encoder_muon_learning_rate: float = 5e-3
    language_model_layers: int = 3
    vocab_size: int = 160
    language_model_steps: int = 1700
    language_model_batch_size: int = 32
    language_model_learning_rate: float = 2e-3
    deletion: float = 0.06
    substitution: float = 0.12
    repetition: float = 0.15
    mixture: Mapping[str, float] = field(default_factory=lambda: {"text": 0.2, "copy": 0.8})
    random_tokens: float = 0.5
    random_words: float = 0.5
    learn_transcripts: bool = True


Report = Callable[[int, int], None]  # told how many steps are done, and of how many


def say_nothing(done: int, total: int) -> None:
    """Take a report and drop it."""


class _Reporter(TrainerCallback):
    def __init__(self, report: Report) -> None:
        self.report = report

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.report(state.global_step, state.max_steps)


class _Batches(torch.utils.data.Dataset):
    """A fixed sequence of ready batches, which the Trainer takes one at a time, in order."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        return self.batches[index]


class _InOrder(Trainer):
    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(train_dataset or self.train_dataset)  # type: ignore[arg-type]


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon for the matrices of the layers, AdamW for everything else, as one optimizer.

    On the encoder it reaches in 4 epochs what AdamW alone reaches in 7 (docs/log.md, 2026-11-21).
    """

    def __init__(
        self, matrices: list[nn.Parameter], others: list[nn.Parameter], lr: float, muon_lr: float
    ) -> None:
        self.parts = [
            Muon(matrices, lr=muon_lr),
            torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.01),
        ]
        super().__init__([*matrices, *others], {"lr": lr})
        # The parts' own groups, so that a scheduler reaches both.
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of each."""
        for part in self.parts:
            part.step(closure)


def fit(
    model: nn.Module,
    batches: list[Any],
    collate: Any,
    learning_rate: float,
    seed: int,
    optimizer: torch.optim.Optimizer | None = None,
    report: Report = say_nothing,
) -> float:
    """Train once over the batches with Hugging Face's Trainer; return the mean training loss.

    `report` is told of each step.
    """
    with tempfile.TemporaryDirectory() as unused:
        arguments = TrainingArguments(
            output_dir=unused,
            save_strategy="no",
            report_to=[],
            per_device_train_batch_size=1,
            max_steps=len(batches),
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=max(1, len(batches) // 10),
            weight_decay=0.01,
            adam_beta2=0.98,
            max_grad_norm=1.0,
            seed=seed,
            remove_unused_columns=False,
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=False,
        )
        trainer = _InOrder(
            model=model,
            args=arguments,
            train_dataset=_Batches(batches),
            data_collator=lambda items: collate(items[0]),
            optimizers=(optimizer, None),
            callbacks=[_Reporter(report)],
        )
        trainer.remove_callback(PrinterCallback)
        return float(trainer.train().training_loss)
