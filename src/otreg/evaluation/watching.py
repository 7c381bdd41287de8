"""Gap measures and a picture of the transport plan, taken while a stage trains.

The model is measured in evaluation mode, without gradients, and its modes and all random states are
given back: a run that is watched ends with the same weights, to the bit, as one that is not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

from otreg.evaluation.alignments import align, clips_with_transcript
from otreg.evaluation.evaluate import measure_gap
from otreg.evaluation.plots import plot_transport_plan, save_png
from otreg.model.evaluation_mode import same_randomness

__all__ = ["MeasureWhileTraining"]


class MeasureWhileTraining(TrainerCallback):
    """Measure a stage at its start, every so many steps, and at its end.

    Gap measures are logged as `gap/NAME` (`otreg.evaluation.measures`), the plan is drawn into
    FOLDER/plan-STEP.png and given to the trackers as `plan`.

    Args:
        watched: what a stage gives, see `otreg.training.watching.Watched`.

    Raises:
        ValueError: no row with a transcribed clip, so that there is nothing to measure.
    """

    def __init__(self, watched: Any) -> None:
        self.watched = watched
        data, count = watched.data, watched.options.rows
        spoken = [row for row in range(len(data)) if clips_with_transcript(data, [row])]
        if not spoken:
            raise ValueError(
                "watch: expected a row with a transcribed clip to measure on, received none; name "
                "other data.validation, or switch watch.gap and watch.plan off"
            )
        count = min(count, len(spoken))
        self.positions = [spoken[index * len(spoken) // count] for index in range(count)]

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure where the stage starts from, unless it is resumed."""
        if state.global_step == 0:
            self._measure(state.global_step, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure after every so many steps and after the last."""
        step = state.global_step
        if step % self.watched.options.every == 0 or step >= state.max_steps:
            self._measure(step, control)

    def _measure(self, step: int, control: Any) -> None:
        told = self.watched
        values = {}
        with same_randomness():
            if told.options.gap:
                gap = measure_gap(told.model, told.processor, told.data, positions=self.positions)
                values = {f"gap/{name}": v for name, v in gap.items() if name[:4] != "num_"}
            if told.options.plan:
                told.show("plan", self._draw(step), step)
        if values:
            # An entry of the log counts as the step's, whose losses would then not be logged.
            asked = control.should_log
            told.log(values)
            control.should_log = asked

    def _draw(self, step: int) -> Path:
        told = self.watched
        record = align(told.model, told.processor, told.data, self.positions[:1])[0]
        figure = plot_transport_plan(
            np.array(record["plan"]), record["targets"], record["frame_s"], title=record["text"]
        )
        told.folder.mkdir(parents=True, exist_ok=True)
        path: Path = told.folder / f"plan-{step:06d}.png"
        save_png(figure, path)
        return path
