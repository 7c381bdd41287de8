"""What a training run did, in a few lines: for the terminal at its end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_NO_TERMS = ("stage", "step", "epoch", "grad_norm", "learning_rate")


def summary_lines(run: str | Path, stages: Sequence[str]) -> list[str]:
    """A few lines for each stage: what trained, how long, and the last mean of each loss.

    Args:
        run: a run folder.
        stages: the stages' names, in order.
    """
    from otreg.training.run_folder import RunFolder

    path = RunFolder(run).log
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    entries: dict[str, list[dict[str, Any]]] = {stage: [] for stage in stages}
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # a line that a killed run did not finish
            continue
        entries.setdefault(entry["stage"], []).append(entry)
    return [line for stage in stages for line in _stage_lines(stage, entries[stage])]


def _stage_lines(stage: str, entries: Sequence[Mapping[str, Any]]) -> list[str]:
    trained = [entry["trained"] for entry in entries if "trained" in entry]
    seconds = sum(entry.get("train_runtime", 0.0) for entry in entries)
    step = max((entry["step"] for entry in entries), default=0)
    groups = ", ".join(
        f"{name} ({count:,} parameters)" for name, count in (trained or [{}])[-1].items()
    )
    lines = [f"{stage}: {groups or 'trained earlier'}; {step} steps, {_duration(seconds)}"]
    for kind, key in (("training", "loss"), ("validation", "eval_loss")):
        found = [entry for entry in entries if key in entry]
        if found:
            terms = _terms(found[-1], "eval_" if key == "eval_loss" else "")
            shown = ", ".join(f"{name} {value:.3g}" for name, value in terms.items())
            lines.append(f"  {kind}: {shown}")
    return lines


def _terms(entry: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """The losses of a log entry, without what they are made of."""
    named = {
        name.removeprefix(prefix): value for name, value in entry.items() if name.startswith(prefix)
    }
    kept = {
        name: value
        for name, value in named.items()
        if name not in _NO_TERMS
        and "/" not in name
        and isinstance(value, int | float)
        and not (prefix and name.endswith(("runtime", "per_second")))
    }
    return {"loss": kept.pop("loss")} | kept


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.3g} s"
