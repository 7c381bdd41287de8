"""Watching a stage while it trains: trackers, and who measures.

Trackers are Trainer's own callbacks, with their files in RUN/watch. What is measured beside the log is
no matter of training: whoever calls `train` hands in what makes the callback (`Measure`).
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainingArguments

from otreg.data import SpeechTextDataset
from otreg.model.evaluation_mode import same_randomness
from otreg.training.config import RunConfig, WatchConfig
from otreg.training.run_folder import RunFolder
from otreg.training.yaml_config import ConfigError

__all__ = ["Measure", "Watched", "check_watch", "watched"]


@dataclass(frozen=True)
class Watched:
    """What a stage gives to the callback that measures it.

    Args:
        options: what to measure, and when.
        stage: the stage's name.
        folder: where pictures go; to be made.
        model: the model, not wrapped.
        processor: its processor.
        data: the rows to measure on: validation, or else training, never augmented.
        log: writes numbers, by name, into the run's log and every tracker.
        show: gives a picture to every tracker: its name, its PNG file, the step.
    """

    options: WatchConfig
    stage: str
    folder: Path
    model: Any
    processor: Any
    data: SpeechTextDataset
    log: Callable[[dict[str, float]], None]
    show: Callable[[str, Path, int], None]


Measure = Callable[[Watched], TrainerCallback]


def check_watch(config: RunConfig, arguments: TrainingArguments, measure: Measure | None) -> None:
    """Refuse to watch in a way that cannot be, before anything is loaded.

    Raises:
        ConfigError: a tracker that is not installed, measures that nobody makes, no rows to choose
            from because the training set is a stream, or a model that is sharded, of which one
            process alone can measure nothing.
    """
    options = config.watch
    if options is None:
        return
    for name in options.to:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f'watch.to: {name} is not installed: pip install "otreg[{name}]", or leave it out'
            )
    if not (options.gap or options.plan):
        return
    if measure is None:
        raise ConfigError(
            "watch.gap and watch.plan need who measures them: call train(…, "
            "measure=otreg.evaluation.watching.MeasureWhileTraining), or switch both off"
        )
    if config.data.streams and not config.data.validation:
        raise ConfigError(
            "watch.gap and watch.plan measure rows spread over a data set, which a stream has not: give "
            "data.validation, or switch watch.gap and watch.plan off"
        )
    if arguments.fsdp or arguments.deepspeed:
        raise ConfigError(
            "watch.gap and watch.plan need the whole model in one process, which FSDP and DeepSpeed "
            "shard; switch both off"
        )


@contextmanager
def watched(
    trainer: Any,
    options: WatchConfig | None,
    folder: RunFolder,
    stage: str,
    processor: Any,
    measure: Measure | None,
) -> Iterator[None]:
    """Add the callbacks of a stage to its trainer; close the trackers at the end.

    Only the main process watches.
    """
    if options is None or not trainer.is_world_process_zero():
        yield
        return
    trackers = _Trackers(options, folder, stage)
    try:
        for callback in trackers.callbacks:
            trainer.add_callback(callback)
        if measure is not None and (options.gap or options.plan):
            data = trainer.train_dataset if trainer.eval_dataset is None else trainer.eval_dataset
            told = Watched(
                options=options,
                stage=stage,
                folder=folder.watch / stage,
                model=trainer.model,
                processor=processor,
                data=_as_it_is(data),
                log=trainer.log,
                show=trackers.show,
            )
            trainer.add_callback(measure(told))
        yield
    finally:
        trackers.close()


def _as_it_is(data: SpeechTextDataset) -> SpeechTextDataset:
    """The same rows without augmentation, which would make every measure one of other speech."""
    if data.augmentation is None:
        return data
    return SpeechTextDataset(
        data.utterances,
        data.processor,
        max_duration_s=data.max_duration_s,
        interleaving=data.interleaving,
    )


class _Trackers:
    """TensorBoard and Weights & Biases for one stage."""

    def __init__(self, options: WatchConfig, folder: RunFolder, stage: str) -> None:
        self._board: Any = None
        self._wandb: Any = None
        self._own_run: Any = None
        self.callbacks: list[TrainerCallback] = []
        if "tensorboard" in options.to:
            from transformers.integrations import TensorBoardCallback

            self._board = TensorBoardCallback()
            self._board.logging_dir = str(folder.watch / "tensorboard" / stage)
            self.callbacks.append(self._board)
        if "wandb" in options.to:
            from transformers.integrations import WandbCallback

            self.callbacks.append(WandbCallback())
            self._start_wandb(folder, stage)

    def show(self, name: str, path: Path, step: int) -> None:
        """Give a PNG to the trackers."""
        if self._board is not None and self._board.tb_writer is not None:
            from matplotlib.image import imread

            pixels = imread(path)[..., :3]  # (height, width, colours)
            self._board.tb_writer.add_image(name, pixels, step, dataformats="HWC")
        if self._wandb is not None:
            picture = self._wandb.Image(str(path))
            self._wandb.log({name: picture, "train/global_step": step})

    def close(self) -> None:
        """Write what is still in memory."""
        if self._board is not None and self._board.tb_writer is not None:
            self._board.tb_writer.close()
            self._board.tb_writer = None
        if self._own_run is not None:
            self._own_run.finish()

    def _start_wandb(self, folder: RunFolder, stage: str) -> None:
        """A run of its own for the stage, with its files in the run folder, unless there is one."""
        import wandb

        self._wandb = wandb
        if wandb.run is not None:
            return
        folder.watch.mkdir(parents=True, exist_ok=True)
        name = folder.root.absolute().name
        project = os.environ.get("WANDB_PROJECT", "otreg")
        with same_randomness():
            self._own_run = wandb.init(
                project=project, dir=str(folder.watch), name=f"{name}/{stage}", group=name
            )
