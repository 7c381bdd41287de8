"""What a stage shows and writes while it trains: a progress bar and the run's log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

__all__ = ["EpochOfData", "JsonLog", "ProgressBar", "trained_parameters"]

_GROUPS = {"multi_modal_projector": "adapter", "objective_heads": "heads of objectives"}


def trained_parameters(model: Any) -> dict[str, int]:
    """How many parameters train, by the groups that a stage lists."""
    found: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = name.removeprefix("model.").split(".")[0]
            group = "lora" if ".lora_" in name else _GROUPS.get(part, part)
            found[group] = found.get(group, 0) + parameter.numel()
    return found


class EpochOfData(TrainerCallback):
    """Tell the training set which epoch begins, before its first item is asked for.

    Args:
        dataset: has `set_epoch`.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Set the epoch, also of a run that is resumed inside one."""
        self.dataset.set_epoch(int((state.epoch or 0) + 1e-6))


class JsonLog(TrainerCallback):
    """Append every log entry as one JSON line, with the stage's name and the step.

    Args:
        path: the log file, shared by the stages of a run.
        stage: the stage's name.
    """

    def __init__(self, path: Path, stage: str) -> None:
        self.path = path
        self.stage = stage

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: dict[str, Any] | None = None,
        model: Any = None,
        **_: Any,
    ) -> None:
        """Write the entry; that of a stage's end says what was trained."""
        if not state.is_world_process_zero or not logs:
            return
        entry = {"stage": self.stage, "step": state.global_step, **logs}
        if "train_runtime" in logs:
            entry["trained"] = trained_parameters(model)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


class ProgressBar(TrainerCallback):
    """A bar over the optimiser steps of a stage that shows the latest mean of each loss.

    Args:
        stage: the stage's name, shown before the bar.
        losses: the log's keys to show.
    """

    def __init__(self, stage: str, losses: list[str]) -> None:
        self.stage = stage
        self.losses = losses
        self._bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar at the step that training starts from."""
        if state.is_world_process_zero:
            from tqdm.auto import tqdm

            self._bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                desc=self.stage,
                unit="step",
                dynamic_ncols=True,
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Advance."""
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Show the losses."""
        if self._bar is not None and logs:
            shown = {key: f"{logs[key]:.3f}" for key in self.losses if key in logs}
            if shown:
                self._bar.set_postfix(shown, refresh=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
