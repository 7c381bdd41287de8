"""OTReg's share of a training step of the demo, by torch's profiler.

    otreg demo --arms otreg
    python benchmarks/profile_step.py demo-out/runs/otreg-seed0

Takes a finished arm of `otreg demo`, trains its last stage again for some steps as the demo does, on
one thread, and profiles them. OTReg's time is that of its call and, on the way back, that of every
autograd node which its call made (the profiler ties the two by sequence number); the step is
Trainer's training_step, without data loading and without the optimiser, which OTReg does not slow.
The transport's time is that of cost, solver and their way back, without the loss over the vocabulary.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch.profiler import ProfilerActivity, profile, record_function

import otreg.objectives.plan as plan_module
from otreg import OTReg
from otreg.training.config import load_config
from otreg.training.stages import train
from otreg.training.trainer import SpeechLMTrainer

MARKS = {"step": "training_step", "otreg": "OTReg", "transport": "transport"}


def marked(name: str, function: Any) -> Any:
    def call(*arguments: Any, **options: Any) -> Any:
        with record_function(MARKS[name]):
            return function(*arguments, **options)

    return call


def seconds(events: list[Any], name: str, step: Any) -> float:
    """Time of a mark within a step, and of the autograd nodes that it made."""

    def within(event: Any, outer: Any) -> bool:
        inner, outer_range = event.time_range, outer.time_range
        return inner.start >= outer_range.start and inner.end <= outer_range.end

    total, numbers = 0.0, set()
    for mark in events:
        if mark.name != MARKS[name] or not within(mark, step):
            continue
        total += mark.time_range.elapsed_us()
        numbers |= {
            event.sequence_nr
            for event in events
            if event.thread == mark.thread and event.sequence_nr >= 0 and within(event, mark)
        }
    for event in events:
        is_node = event.name.startswith("autograd::engine::evaluate_function")
        if is_node and event.sequence_nr in numbers and within(event, step):
            total += event.time_range.elapsed_us()
    return total / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="a finished arm of otreg demo that uses OTReg")
    parser.add_argument("--steps", type=int, default=30, help="profiled steps, after ten others")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config: Any = load_config(arguments.run / "config.yaml")
    total_steps = 10 + arguments.steps
    stage = dataclasses.replace(config.stages[-1], steps=total_steps)
    config = dataclasses.replace(config, stages=[stage])

    OTReg.__call__ = marked("otreg", OTReg.__call__)  # type: ignore[method-assign]
    plan_module.cosine_transport = marked("transport", plan_module.cosine_transport)
    plain = SpeechLMTrainer.training_step
    profiler = profile(activities=[ProfilerActivity.CPU])
    count = 0

    def training_step(self: Any, *args: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count == 11:
            profiler.start()
        with record_function(MARKS["step"]):
            return plain(self, *args, **options)

    SpeechLMTrainer.training_step = training_step  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as out:
        train(config, Path(out) / "run", quiet=True)
        profiler.stop()
    events = list(profiler.events())
    steps = [event for event in events if event.name == MARKS["step"]]
    shares: dict[str, list[float]] = {"otreg": [], "transport": []}
    whole = []
    for step in steps:
        whole.append(step.time_range.elapsed_us() / 1e6)
        near = [e for e in events if e.time_range.start >= step.time_range.start]
        near = [e for e in near if e.time_range.end <= step.time_range.end]
        for name, values in shares.items():
            values.append(seconds(near, name, step) / whole[-1])
    result = {
        "steps": len(steps),
        "median_step_s": median(whole),
        **{f"{name}_share": median(values) for name, values in shares.items()},
    }
    print(
        f"{len(steps)} steps of {1e3 * result['median_step_s']:.0f} ms; OTReg "
        f"{100 * result['otreg_share']:.1f} %, of which transport "
        f"{100 * result['transport_share']:.1f} %"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
