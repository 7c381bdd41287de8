"""Steps that take no time, for tests of the schedule; workers import this module."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

from otreg.experiment.graph import Call, Kind

CALLS = "calls.txt"


def write(call: Call) -> Mapping[str, Path]:
    """Write a text: the settings' and those of all inputs, in order; note the call."""
    with open(call.root / CALLS, "a") as log:
        log.write(f"{call.settings['text']}\n")
    if call.settings.get("fail"):
        raise ValueError(f"{call.settings['text']} fails")
    if call.settings.get("die"):
        (call.folder / "half").write_text("half")
        os._exit(1)
    texts = [path.read_text() for _, path in sorted(call.inputs.items())]
    out = call.folder / "out.txt"
    out.write_text(call.settings.get("writes", call.settings["text"]) + "".join(texts))
    return {"out": out}


def warn(call: Call) -> Mapping[str, Path]:
    """Warn twice by logging and twice by warnings, as libraries do."""
    for _ in range(2):
        logging.getLogger("otreg.toy").warning("many losses are %d", 0)
        warnings.warn("an old habit", stacklevel=1)
    return write(call)


HERE = Kind("here", write, ("names.py",), in_worker=False)
WORKER = Kind("worker", write, ("names.py",))
WARNING = Kind("warning", warn, ("names.py",))
