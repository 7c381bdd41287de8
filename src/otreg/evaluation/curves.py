"""Training curves from a run's log."""

import json
import logging
import math
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


def read_curves(path: str | Path) -> list[dict[str, Any]]:
    """Read what a run logged while it trained, one record per stage and step.

    Entries of the training loss are taken, others (validation, the summary of a stage) are not. A
    resumed run logs some steps again; the later entry is the one that led to the model. Numbers that
    are not finite are left out, and so is a line that a killed run did not finish.

    Args:
        path: a run's log.jsonl; where there is no such file, there are no curves.

    Returns:
        Records with stage, step, loss and whatever else was logged, as the list `curves` of
        results.json holds them, but for arm and seed.
    """
    path = Path(path)
    if not path.is_file():
        return []
    latest: dict[tuple[str, int], dict[str, Any]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
        except ValueError:
            logger.warning("%s, line %d is not JSON; it is left out", path, number)
            continue
        if "loss" in entry:
            known = {name: value for name, value in entry.items() if not _is_unknown(value)}
            latest[entry["stage"], entry["step"]] = known
    return list(latest.values())


def _is_unknown(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
