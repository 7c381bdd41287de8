"""Hugging Face's Trainer with the one rule of the step's loss.

    L = sum_o w_o * (sum_k total_o(k)) / (sum_k count_o(k))      micro-batches k of all ranks

Cross-entropy is an objective like the others. The counts come from the batches alone, so each
micro-batch's share is known before its forward pass, and 1 x 8, 2 x 4, 8 x 1 and two ranks make the
same step, also where micro-batches differ in size. Trainer adds the micro-batches' losses up without
dividing again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.utils import SAFE_WEIGHTS_NAME

from otreg.forwards import (
    OwnPort,
    Port,
    Reference,
    draw_seed,
    port_of,
    run_forwards,
    transcript_ids,
)
from otreg.model.evaluation_mode import rest
from otreg.objectives import Term
from otreg.training.model_parts import frozen_modules
from otreg.training.objectives import WeightedObjective

__all__ = ["NonFiniteLossError", "SpeechLMTrainer", "TrainingCollator"]

LOG_KEYS = {"cross_entropy": "ce"}
"""Names under which objectives are logged, where those differ from their own."""


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
    """Train a speech language model on weighted objectives.

    A weight of 0 leaves an objective out of the computation. Logs hold, beside Trainer's own, for
    every objective its mean loss under its name (cross-entropy's under `ce`) and its terms as
    `name/term`, all unweighted: means over what was trained on since the last log.

    Args:
        objectives: by name.
        reference: the weights at the stage's start, for objectives that look back at them.
        batch_sampler: batches of indices for training (a token budget); None = Trainer's own.
        port: how the model is read; None = it is otreg's own.
        **trainer_arguments: as for `transformers.Trainer`; the data collator must be a
            `TrainingCollator`.
    """

    def __init__(
        self,
        *,
        objectives: Mapping[str, WeightedObjective],
        reference: Reference | None = None,
        batch_sampler: Any = None,
        port: Port | None = None,
        **trainer_arguments: Any,
    ) -> None:
        super().__init__(**trainer_arguments)
        self.port = port_of(self.model) if port is None else port
        self._frozen: list[nn.Module] | None = None
        # The loss is divided by the step's counts here; Trainer must not divide it again.
        self.model_accepts_loss_kwargs = True
        self.objectives = {
            name: weighted for name, weighted in objectives.items() if weighted.weight > 0
        }
        kept = [weighted.objective for weighted in self.objectives.values()]
        self.needs = frozenset[str]().union(*(getattr(o, "needs", ()) for o in kept))
        self.layers = frozenset[int]().union(*(getattr(o, "layers", ()) for o in kept))
        self.reference = reference
        self.train_batch_sampler = batch_sampler
        self._step_counts: dict[str, Tensor] = {}
        self._step_ids: Tensor | None = None
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    def get_train_dataloader(self) -> DataLoader:
        """Trainer's loader, or one over the batch sampler or the stream where there is one."""
        stream = isinstance(self.train_dataset, IterableDataset)
        if self.train_batch_sampler is None and not stream:
            return super().get_train_dataloader()
        loader: DataLoader = DataLoader(
            self.train_dataset,  # type: ignore[arg-type]
            batch_sampler=self.train_batch_sampler,
            batch_size=self.args.per_device_train_batch_size if stream else 1,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )
        if stream:  # it knows its rank; accelerate would share its share out again
            return loader
        prepared: DataLoader = self.accelerator.prepare(loader)
        return prepared

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Trainer's, and count what the whole step holds for every objective, over all ranks."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        batches = [self.port.completed(batch) for batch in batches]
        names = list(self.objectives)
        counts = torch.zeros(len(names), dtype=torch.float64, device=device)
        for batch in batches:
            found = [self.objectives[name].objective.count(batch) for name in names]
            counts += torch.stack([torch.as_tensor(count) for count in found]).to(counts)
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(counts, "sum")
        self._step_counts = dict(zip(names, counts.clamp(min=1).unbind(), strict=True))
        if "step_ids" in self.needs:
            self._step_ids = self._transcript_ids(batches, device)
        return batches, counts.sum()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The micro-batch's share of the step's loss (see the module's equation).

        Raises:
            NonFiniteLossError: an objective is NaN or infinite, in training.
        """
        batch = self.port.completed(inputs)
        ids = batch.pop("utterance_ids", None)
        step_ids = self._step_ids
        if model.training:
            self._keep_frozen_parts_still()
        else:  # a loss that does not depend on how its batches are cut
            step_ids = self._all_ids(self.port.model) if "step_ids" in self.needs else None
        view = run_forwards(
            self.port,
            batch,
            needs=self.needs,
            layers=self.layers,
            reference=self.reference,
            call=model,
            step_ids=step_ids,
            draw_seed=draw_seed(self.args.seed, self.state.global_step),
        )
        loss: Any = 0.0
        for name, weighted in self.objectives.items():
            term = weighted.objective(view)
            count = weighted.objective.count(batch)
            if model.training:
                self._check_finite(name, term, ids)
                step_count = self._step_counts.get(name, count.clamp(min=1))
                share = term.total / step_count.to(term.total.dtype)
                share = share * self.accelerator.num_processes
                weight = weighted.weight_at(self.state.global_step, self.state.max_steps)
            else:
                share, weight = term.total / count.clamp(min=1), weighted.weight
            loss = loss + (share if weight == 1 else weight * share)
            self._record_term(name if model.training else f"eval_{name}", name, term, count)
        # Rows without speech may reach nothing that trains; backward and DDP want a gradient, 0.
        without_speech = self.args.world_size > 1 and "clips" not in batch
        if model.training and (without_speech or not loss.requires_grad):
            trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
            loss = loss + sum(parameter.flatten()[:0].sum() for parameter in trained)
        return (loss, view.speech) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's log entry, completed by the mean of every term since the last one.

        In evaluation the mean is over all batches together, and objectives score the whole
        vocabulary, so it does not depend on the batches' size; `eval_loss` is made of these means.
        """
        prefix = "eval_" if "eval_loss" in logs else "" if "loss" in logs else None
        if prefix is not None:
            for key in [key for key in self._sums if key.startswith("eval_") == bool(prefix)]:
                total = torch.stack([self._sums.pop(key), self._counts.pop(key)])
                if self.args.world_size > 1:
                    total = self.accelerator.reduce(total, "sum")
                logs[key] = (total[0] / total[1].clamp(min=1)).item()
        if prefix == "eval_":
            logs["eval_loss"] = sum(
                weighted.weight * logs[f"eval_{LOG_KEYS.get(name, name)}"]
                for name, weighted in self.objectives.items()
            )
        super().log(logs, start_time)

    def _keep_frozen_parts_still(self) -> None:
        """No dropout and no running statistics in what does not train."""
        if self._frozen is None:
            self._frozen = frozen_modules(self.port.model)
        for module in self._frozen:
            rest(module)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Trainer's; a model of others by the names that its weights have in memory.

        save_pretrained writes some under the names of older checkpoints, which a resumed run would
        not find, and Trainer passes over what it does not find.
        """
        if isinstance(self.port, OwnPort):
            super()._save(output_dir, state_dict)
            return
        folder = Path(output_dir or str(self.args.output_dir))
        if self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            save_model(self.port.model, str(folder / SAFE_WEIGHTS_NAME))
            torch.save(self.args, folder / TRAINING_ARGS_NAME)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        """Trainer's; a model of others as `_save` wrote it, every weight of it."""
        if isinstance(self.port, OwnPort):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        load_model(self.port.model, str(Path(resume_from_checkpoint) / SAFE_WEIGHTS_NAME))

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

    def _transcript_ids(self, batches: Sequence[Any], device: torch.device) -> Tensor:
        """(k,) the sorted distinct ids of the step's transcripts, over all ranks."""
        ids = transcript_ids(batches).to(device)
        if self.args.world_size > 1:
            ids = self.accelerator.pad_across_processes(ids, pad_index=-1)
            ids = self.accelerator.gather(ids).unique()
            ids = ids[ids >= 0]
        return ids

    def _all_ids(self, model: Any) -> Tensor:
        """(vocab,) the ids of the language model's embedding table."""
        table = model.get_input_embeddings().weight
        return torch.arange(len(table), device=table.device)

    def _check_finite(self, name: str, term: Term, ids: Sequence[str] | None) -> None:
        """Stop before a bad value reaches the parameters, naming the utterances."""
        if bool(torch.isfinite(term.total)):
            return
        bad: list[bool] = []
        if term.by_row is not None:
            bad = (~torch.isfinite(term.by_row())).tolist()
        named = [str(i) for i, is_bad in zip(ids or [], bad, strict=False) if is_bad]
        which = named or [str(i) for i in ids or []]
        raise NonFiniteLossError(
            f"{name} is not finite at step {self.state.global_step + 1}, utterances "
            f"{', '.join(which) or '(ids unknown)'}; check their audio and transcript, lower the "
            "learning rate, or train in float32 or bfloat16"
        )

    def _record_term(self, name: str, own: str, term: Term, count: Tensor) -> None:
        key = name.replace(own, LOG_KEYS.get(own, own)) if own in LOG_KEYS else name
        self._record(key, term.total.detach(), count)
        for part, values in term.terms.items():
            self._record(f"{key}/{part}", values.detach().float().sum(), values.numel())

    def _record(self, key: str, total: Tensor, count: Tensor | float) -> None:
        total = total.double()
        self._sums[key] = self._sums.get(key, torch.zeros_like(total)) + total
        self._counts[key] = self._counts.get(key, torch.zeros_like(total)) + count
