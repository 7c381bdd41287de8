"""A handle under Hugging Face's Trainer: the loss of a step does not depend on how it is cut.

Trainer fetches all micro-batches of an optimiser step before the first forward pass. What the
objectives count in them, over all ranks, is the denominator of each micro-batch's share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback

from otreg.integrations.attach import Handle, transcripts_of


class AttachedTrainer(Trainer):
    """Hugging Face's Trainer for a model with a handle.

    Logs hold the objectives' mean losses under their names, and their terms as "name/term".

    Args:
        handle: what `attach` gave for the model.
        *args: as for `transformers.Trainer`.
        **kwargs: as for `transformers.Trainer`; remove_unused_columns must be False where `attach`
            was given text=.

    Raises:
        ValueError: a loss of one's own, or label smoothing: both leave the model's loss out.
    """

    def __init__(self, *args: Any, handle: Handle, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _check(self)
        self.handle = handle
        self._logged = _Means()

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """Trainer's, and tell the handle what the step holds."""
        batches, num_items = super().get_batch_samples(*args, **kwargs)
        begin_step(self, self.handle, batches, num_items)
        return batches, num_items

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Trainer's, and keep the terms for the log."""
        loss = super().training_step(*args, **kwargs)
        self._logged.add(self.handle.terms)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's log entry, with the mean of every term since the last one."""
        super().log(logs | (self._logged.take() if "loss" in logs else {}), start_time)


class AttachedCallback(TrainerCallback):
    """The same for any Trainer, TRL's SFTTrainer among them: `trainer.add_callback(...)`.

    Args:
        handle: what `attach` gave for the model.
        trainer: the trainer that the callback is added to.

    Raises:
        ValueError: as `AttachedTrainer`.

    Example::

        trainer.add_callback(AttachedCallback(handle, trainer))
    """

    def __init__(self, handle: Handle, trainer: Trainer) -> None:
        _check(trainer)
        self.handle = handle
        self.trainer = trainer
        self._logged = _Means()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See each step's batches before it begins."""
        fetch = self.trainer.get_batch_samples

        def fetch_and_begin(*given: Any, **named: Any) -> tuple[list[Any], Any]:
            batches, num_items = fetch(*given, **named)
            begin_step(self.trainer, self.handle, batches, num_items)
            return batches, num_items

        self.trainer.get_batch_samples = fetch_and_begin  # type: ignore[method-assign]

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the terms for the log."""
        self._logged.add(self.handle.terms)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the terms for the log."""
        self._logged.add(self.handle.terms)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add the terms' means to the entry that Trainer has just made."""
        logs = kwargs.get("logs") or {}
        if "loss" in logs and state.log_history:
            means = self._logged.take()
            logs.update(means)
            state.log_history[-1].update(means)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the trainer as it was."""
        vars(self.trainer).pop("get_batch_samples", None)


def begin_step(
    trainer: Any, handle: Handle, batches: Sequence[Mapping[str, Any]], num_items: Any
) -> None:
    """Tell a handle what an optimiser step of a trainer holds, over all ranks."""
    if not batches:
        return
    full = [handle.port.completed(batch) for batch in batches]
    counts = handle.counts(full)
    ids = transcripts_of(full) if "step_ids" in handle.needs else None
    num_ranks = trainer.accelerator.num_processes
    if num_ranks > 1:
        device = trainer.args.device
        total = torch.tensor(list(counts.values()), dtype=torch.float64, device=device)
        total = trainer.accelerator.reduce(total, "sum")
        counts = dict(zip(counts, total.tolist(), strict=True))
        if "step_ids" in handle.needs:
            ids = torch.zeros(0, dtype=torch.long) if ids is None else ids
            ids = trainer.accelerator.pad_across_processes(ids.to(device), pad_index=-1)
            ids = trainer.accelerator.gather(ids).unique()
            ids = ids[ids >= 0]
    # What Trainer does to the loss afterwards; gradients are averaged over the ranks.
    takes_items = trainer.model_accepts_loss_kwargs and num_items is not None
    multiplied = num_ranks if takes_items and trainer.args.average_tokens_across_devices else 1
    divided = 1 if takes_items else len(batches)
    handle.set_step(
        counts,
        ids,
        num_ranks * divided / multiplied,
    )


def _check(trainer: Any) -> None:
    if trainer.compute_loss_func is not None or trainer.label_smoother is not None:
        raise ValueError(
            "compute_loss_func and label_smoothing_factor make Trainer compute a loss of its own in "
            "place of the model's, which is where attach() adds; leave them out"
        )


class _Means:
    """Running means of terms by name."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = {}

    def add(self, terms: Mapping[str, Tensor]) -> None:
        for name, value in terms.items():
            self._values.setdefault(name, []).append(value)

    def take(self) -> dict[str, float]:
        means = {name: torch.stack(v).mean().item() for name, v in self._values.items()}
        self._values = {}
        return means
