"""Hugging Face's Trainer with weighted objectives beside cross-entropy.

The loss of one optimiser step over micro-batches k is

    L = w_ce * sum_k CE_k + sum_o w_o * sum_k sum_{i in k} loss_o(i) / N

CE_k already divided by the labelled tokens of all micro-batches (Trainer does so), N the utterances
of all micro-batches and ranks. Trainer adds the micro-batches' losses up without dividing again, so
a plain mean per micro-batch would count an objective once per micro-batch; dividing by N makes
1 x 8, 2 x 4 and 8 x 1 the same step, also where micro-batches differ in size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer

from otreg.training.objectives import WeightedObjective, speech_text_pair

__all__ = ["NonFiniteLossError", "SpeechLMTrainer", "TrainingCollator"]


class NonFiniteLossError(RuntimeError):
    """A loss or gradient that is NaN or infinite; the message names step, term and utterances."""


class TrainingCollator:
    """A collator that also carries the utterances' ids, for the trainer to name them in errors.

    Args:
        collator: makes the batch from a list of examples that have an `id`.
    """

    def __init__(self, collator: Callable[[Sequence[Any]], dict[str, Any]]) -> None:
        self.collator = collator

    def __call__(self, examples: Sequence[Any]) -> dict[str, Any]:
        """The collator's batch and, beside it, the list `utterance_ids`."""
        return {
            **self.collator(examples),
            "utterance_ids": [example["id"] for example in examples],
        }


class SpeechLMTrainer(Trainer):
    """Train a speech language model on cross-entropy and alignment objectives.

    A weight of 0 leaves a term out of the computation, so the run is plain fine-tuning to the bit.
    Logs hold, beside Trainer's own, `ce` and for every objective its mean loss under its name and
    its terms as `name/term`, all unweighted: means over what was trained on since the last log.

    Args:
        objectives: by name.
        cross_entropy_weight: coefficient of the transcript's cross-entropy.
        batch_sampler: batches of indices for training (a token budget); None = Trainer's own.
        **trainer_arguments: as for `transformers.Trainer`; the data collator must be a
            `TrainingCollator`.
    """

    def __init__(
        self,
        *,
        objectives: Mapping[str, WeightedObjective] | None = None,
        cross_entropy_weight: float = 1.0,
        batch_sampler: Any = None,
        **trainer_arguments: Any,
    ) -> None:
        super().__init__(**trainer_arguments)
        self.objectives = {
            name: weighted for name, weighted in (objectives or {}).items() if weighted.weight > 0
        }
        self.cross_entropy_weight = cross_entropy_weight
        self.train_batch_sampler = batch_sampler
        self._num_utterances: Tensor | int | None = None
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    def get_train_dataloader(self) -> DataLoader:
        """Trainer's loader, or one over the batch sampler where there is one."""
        if self.train_batch_sampler is None:
            return super().get_train_dataloader()
        loader: DataLoader = DataLoader(
            self.train_dataset,  # type: ignore[arg-type]
            batch_sampler=self.train_batch_sampler,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )
        prepared: DataLoader = self.accelerator.prepare(loader)
        return prepared

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Trainer's, and count the utterances of the whole accumulated batch over all ranks."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        count = sum(len(batch["input_ids"]) for batch in batches)
        if self.args.world_size > 1:
            local = torch.tensor(count, device=device)
            self._num_utterances = self.accelerator.gather(local).sum()
        else:
            self._num_utterances = count
        return batches, num_items

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Cross-entropy and the objectives, each by its weight (see the module's equation).

        Raises:
            NonFiniteLossError: a term is NaN or infinite, in training.
        """
        inputs = dict(inputs)
        ids = inputs.pop("utterance_ids", None)
        cross_entropy, outputs = super().compute_loss(
            model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
        )
        batch_size = len(inputs["input_ids"])
        training = model.training
        if training:
            self._check_finite("cross_entropy", cross_entropy, outputs["logits"], ids)
            num_utterances = batch_size if self._num_utterances is None else self._num_utterances
            scale = self.accelerator.num_processes / num_utterances
            # A step's cross-entropies add up to its mean: their counts add up to 1.
            share = cross_entropy.detach() / self.accelerator.num_processes
            self._record("ce", share, batch_size / num_utterances)
        else:
            scale = 1 / batch_size
            self._record("eval_ce", cross_entropy.detach() * batch_size, batch_size)
        loss = cross_entropy
        if self.cross_entropy_weight != 1:
            loss = self.cross_entropy_weight * loss
        if self.objectives:
            pair = speech_text_pair(
                self.accelerator.unwrap_model(model),
                outputs,
                text_ids=inputs["text_ids"],
                text_mask=inputs["text_mask"],
            )
            for name, weighted in self.objectives.items():
                out = weighted.objective(pair)  # out.loss: (batch,)
                if training:
                    self._check_finite(name, out.loss, out.loss, ids)
                weight = weighted.weight_at(self.state.global_step, self.state.max_steps)
                loss = loss + weight * scale * out.loss.sum()
                self._record_terms(name if training else f"eval_{name}", out)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's log entry, completed by the mean of every term since the last one."""
        prefix = "eval_" if "eval_loss" in logs else "" if "loss" in logs else None
        if prefix is not None:
            for key in [key for key in self._sums if key.startswith("eval_") == bool(prefix)]:
                total = torch.stack([self._sums.pop(key), self._counts.pop(key)])
                if self.args.world_size > 1:
                    total = self.accelerator.reduce(total, "sum")
                logs[key] = (total[0] / total[1]).item()
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """0: Trainer's estimate counts text tokens through the whole model, wrong for speech."""
        return 0

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Trainer's, but a gradient that is not finite stops the run before the optimiser steps."""
        norm = super()._get_grad_norm(model, grad_norm)
        value = float("nan") if norm is None else float(norm)
        scaled = self.accelerator.scaler is not None  # float16: the scaler skips such steps itself
        if norm is not None and not math.isfinite(value) and not scaled:
            raise NonFiniteLossError(
                f"the gradient's norm is {value} at step {self.state.global_step + 1}, with finite "
                "losses; lower the learning rate, or train in float32 or bfloat16"
            )
        return norm

    def _check_finite(
        self, term: str, value: Tensor, rows: Tensor, ids: Sequence[str] | None
    ) -> None:
        """Stop before a bad value reaches the parameters; `rows` (batch, ...) shows whose it is."""
        if bool(torch.isfinite(value).all()):
            return
        bad = ~torch.isfinite(rows.detach().flatten(1 if rows.dim() > 1 else 0)).reshape(
            len(rows), -1
        )
        named = [
            str(i) for i, is_bad in zip(ids or [], bad.any(dim=1).tolist(), strict=False) if is_bad
        ]
        which = named or [str(i) for i in ids or []]
        raise NonFiniteLossError(
            f"{term} is not finite at step {self.state.global_step + 1}, utterances "
            f"{', '.join(which) or '(ids unknown)'}; check their audio and transcript, lower the "
            "learning rate, or train in float32 or bfloat16"
        )

    def _record_terms(self, name: str, out: Any) -> None:
        count = len(out.loss)
        self._record(name, out.loss.detach().sum(), count)
        for key, value in out.terms.items():
            self._record(f"{name}/{key}", value.detach().float().sum(), count)

    def _record(self, key: str, total: Tensor, count: Tensor | float) -> None:
        total = total.double()
        self._sums[key] = self._sums.get(key, torch.zeros_like(total)) + total
        self._counts[key] = self._counts.get(key, torch.zeros_like(total)) + count
