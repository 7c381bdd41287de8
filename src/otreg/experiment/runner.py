"""Run an experiment: its arms at several seeds, their evaluation, one results.json, one report.

What does not depend on a seed or an arm is made once and kept in the output folder:

    OUT/corpora/       the synthetic speech          OUT/towers/          the tiny towers
    OUT/NAME-….jsonl   prepared manifests            OUT/encoder-states/  outputs of the encoder
    OUT/stages/        run folders of the stages     OUT/evaluations/     one result for each arm and seed
    OUT/runs/ARM-seedN links to the last stage of each arm
    OUT/results.json, OUT/report.html
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from otreg.experiment.definition import SPLITS, Experiment
from otreg.experiment.plan import Plan, Trained
from otreg.experiment.reading import load_experiment
from otreg.experiment.schedule import Parts, Schedule
from otreg.names import nearest
from otreg.training.yaml_config import ConfigError

__all__ = ["run_experiment"]

logger = logging.getLogger(__name__)


def run_experiment(
    experiment: Experiment | str | Path,
    out: Path | str,
    *,
    seeds: int = 1,
    arms: Sequence[str] | None = None,
    split: str = "test",
    num_processes: int = 2,
    progress: Callable[[str], None] = logger.info,
    command: str | None = None,
) -> dict[str, Any]:
    """Run an experiment and write `out`/results.json and `out`/report.html.

    Args:
        experiment: what to do; a name or a path is loaded by `load_experiment`.
        out: folder for everything; what an earlier call finished in it is used again.
        seeds: how many seeds, from 0.
        arms: which of the arms and controls; None = all. The base arm is always among them.
        split: "test", or "development" for the corpora that choices are made on.
        num_processes: steps run side by side, one thread each.
        progress: told of each step in one line.
        command: the command line, for results.json; None = not known.

    Returns:
        The results, as in results.json.

    Raises:
        ConfigError: an unknown arm or split, or an arm that goes on from itself.
        ValueError: another process works in `out`.
        ImportError: when the extra `demo` is not installed.
    """
    from otreg.evaluation.report import write_report
    from otreg.evaluation.results import (
        environment,
        merge_results,
        read_results,
        write_results,
    )

    out = Path(out)
    if not isinstance(experiment, Experiment):
        experiment = load_experiment(experiment)
    chosen = _choose_arms(experiment, arms)
    if split not in SPLITS:
        raise ConfigError(f"unknown split {split!r}: expected {' or '.join(SPLITS)}")
    plan = Plan(experiment, split)
    evaluated = {(arm, seed): plan.evaluated(arm, seed) for seed in range(seeds) for arm in chosen}
    clock = _Clock(progress)
    with _alone_in(out):
        made = Schedule(out, num_processes, clock.done).run(plan.graph)
        for (arm, seed), (_, trained) in evaluated.items():
            _link_run(out / "runs" / f"{arm}-seed{seed}", trained, made)
        parts = [read_results(made[step]["results"].path) for step, _ in evaluated.values()]
        facts = _facts(experiment, chosen, seeds, split, command)
        results = merge_results([*parts, environment(), facts | {"seconds": clock.times}])
        write_results(results, out / "results.json")
        start = time.monotonic()
        write_report(results, out / "report.html", title=experiment.title)
        clock.done("report written", round(time.monotonic() - start, 1), False)
    return results


def _facts(
    experiment: Experiment, arms: Sequence[str], seeds: int, split: str, command: str | None
) -> dict[str, Any]:
    """What is known of the whole experiment, for results.json."""
    config = experiment.as_dict()
    for key in ("name", "title", "gates", "descriptions", "error_rates"):
        del config[key]
    config["arms"] = {arm: list(experiment.arms[arm]) for arm in arms}
    facts: dict[str, Any] = {
        "experiment": experiment.name,
        "base_arm": experiment.base,
        "config": config | {"seeds": seeds, "split": split},
        "arm_descriptions": {
            arm: text for arm, text in experiment.descriptions.items() if arm in arms
        },
    }
    if not experiment.error_rates:
        facts["error_rates"] = False
    if experiment.gates:
        facts["gate_specs"] = [dict(spec) for spec in experiment.gates]
    return facts if command is None else facts | {"command": command}


def _choose_arms(experiment: Experiment, arms: Sequence[str] | None) -> list[str]:
    for name in arms or ():
        if name not in experiment.arms:
            raise ConfigError(f"unknown arm {name!r}; {nearest(name, list(experiment.arms))}")
    base = experiment.base
    return [name for name in experiment.arms if arms is None or name in arms or name == base]


def _link_run(link: Path, trained: Trained, made: Mapping[str, Parts]) -> None:
    """Give the run folder of an arm's last stage the arm's name."""
    folder = made[trained.steps[-1]]["model"].path.parent
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink():
        link.unlink()
    elif link.exists():  # a run of an earlier version
        shutil.rmtree(link)
    link.symlink_to(os.path.relpath(folder, link.parent), target_is_directory=True)


@contextlib.contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"another process works in {str(out)!r}; wait for it, or name another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


class _Clock:
    """Says when each step is done, and keeps how long it took."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.start = time.monotonic()
        self.times: dict[str, float] = {}

    def done(self, what: str, seconds: float, is_kept: bool) -> None:
        self.times[what] = seconds
        kept = " (kept from an earlier call)" if is_kept else ""
        self.say(f"{time.monotonic() - self.start:6.0f} s  {what}{kept}")
