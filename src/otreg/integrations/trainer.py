"""A handle under Hugging Face's Trainer: the loss of a step does not depend on how it is cut.

Trainer fetches all micro-batches of an optimiser step before the first forward pass. What the
objectives count in them, over all ranks, is the denominator of each micro-batch's share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback

from otreg.integrations.handle import Handle


class AttachedCallback(TrainerCallback):
    """A handle under any Trainer, TRL's SFTTrainer among them: `trainer.add_callback(...)`.

    While it trains, the trainer's get_batch_samples and compute_loss are followed by ours. Logs hold
    the objectives' mean losses under their names, and their terms as "name/term".

    Args:
        handle: what `attach` gave for the model.
        trainer: the trainer that the callback is added to.

    Example::

        trainer.add_callback(AttachedCallback(handle, trainer))
    """

    def __init__(self, handle: Handle, trainer: Trainer) -> None:
        _check(trainer)
        self.handle = handle
        self.trainer = trainer
        self._logged = _Means()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See each step's batches before it begins, add to each loss, complete each log entry."""
        self.leave()  # a training that was interrupted
        self.handle.on_top()
        fetch, compute = self.trainer.get_batch_samples, self.trainer.compute_loss
        log = self.trainer.log

        def fetch_and_begin(*given: Any, **named: Any) -> tuple[list[Any], Any]:
            batches, num_items = fetch(*given, **named)
            _begin_step(self.trainer, self.handle, batches, num_items)
            return batches, num_items

        def compute_and_add(*given: Any, **named: Any) -> Any:
            return _with_objectives(compute, self.handle, self._logged, given, named)

        def log_with_terms(logs: dict[str, float], *given: Any, **named: Any) -> None:
            log(logs | (self._logged.take() if "loss" in logs else {}), *given, **named)

        self.trainer.log = log_with_terms  # type: ignore[method-assign]
        self.trainer.get_batch_samples = fetch_and_begin  # type: ignore[method-assign]
        self.trainer.compute_loss = compute_and_add  # type: ignore[method-assign]

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `leave`."""
        self.leave()

    def leave(self) -> None:
        """Leave the trainer as it was, and the handle between steps."""
        for name in ("get_batch_samples", "compute_loss", "log"):
            vars(self.trainer).pop(name, None)
        self.handle.end_step()


class AttachedTrainer(Trainer):
    """Hugging Face's Trainer for a model with a handle: `AttachedCallback` and Trainer in one.

    Args:
        handle: what `attach` gave for the model.
        *args: as for `transformers.Trainer`.
        **kwargs: as for `transformers.Trainer`; remove_unused_columns must be False where `attach`
            was given text=.
    """

    def __init__(self, *args: Any, handle: Handle, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._attached = AttachedCallback(handle, self)
        self.add_callback(self._attached)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's; the handle's steps end with it, also where it is interrupted."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self._attached.leave()


def _begin_step(
    trainer: Any, handle: Handle, batches: Sequence[Mapping[str, Any]], num_items: Any
) -> None:
    """Tell a handle what an optimiser step of a trainer holds, over all ranks."""
    if not batches:
        return
    # Trainer divides a loss by the number of micro-batches unless it was divided by the step's tokens.
    is_divided = getattr(trainer, "loss_is_scaled_for_ga", None)
    if is_divided is None:
        by_tokens = trainer.model_accepts_loss_kwargs and num_items is not None
        is_divided = by_tokens or trainer.compute_loss_func is not None
    handle.begin_step(batches=batches, divided_by=1 if is_divided else len(batches))


def _with_objectives(
    compute: Callable[..., Any], handle: Handle, logged: _Means, args: Any, kwargs: Any
) -> Any:
    """A trainer's loss, and in training what the objectives add to it."""
    handle.loss = None
    with handle.collecting():
        found = compute(*args, **kwargs)
    if not handle.is_active():
        return found
    if handle.loss is None:
        raise RuntimeError(
            "the model's forward pass did not reach attach(): something has replaced model.forward since; "
            "call attach() after it"
        )
    logged.add(handle.terms)
    loss, *rest = found if isinstance(found, tuple) else (found,)
    loss = loss + handle.loss.to(loss)
    return (loss, *rest) if rest else loss


def _check(trainer: Any) -> None:
    if trainer.args.n_gpu > 1:
        raise ValueError(
            f"Trainer would run nn.DataParallel over {trainer.args.n_gpu} GPUs, under which attach() does "
            "not work; start one process a GPU (torchrun), or show it one GPU"
        )


class _Means:
    """Running means of terms by name."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, terms: Mapping[str, Tensor]) -> None:
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        means = {name: (total / self._counts[name]).item() for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means
