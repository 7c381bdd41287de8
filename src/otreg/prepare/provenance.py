"""OUT.provenance.json: what a file or folder was made of, by which command and versions."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from otreg.prepare.digests import file_digest
from otreg.versions import versions


def provenance_path(out: str | Path) -> Path:
    """Where the provenance of a file or folder lies: beside it."""
    out = Path(out)
    return out.with_name(out.name + ".provenance.json")


def write_provenance(
    out: str | Path,
    program: str,
    settings: Mapping[str, Any],
    inputs: Sequence[str | Path],
    *,
    command: str = "",
    **facts: Any,
) -> None:
    """Write the provenance of OUT in one step.

    Args:
        out: the file or folder that was made.
        program: the name of the program that made it.
        settings: all that decided the result besides the inputs.
        inputs: the files that were read; written with the SHA-256 of each.
        command: the command line.
        facts: what else is known, such as counts.
    """
    record = {
        "command": command,
        "program": program,
        "settings": dict(settings),
        "versions": versions(),
        "inputs": [{"path": str(path), "sha256": file_digest(path)} for path in inputs],
        **facts,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    _write_json(provenance_path(out), record)


def read_provenance(out: str | Path) -> dict[str, Any]:
    """Read the provenance of OUT; empty where there is none that can be read."""
    try:
        record = json.loads(provenance_path(out).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def add_to_provenance(out: str | Path, **facts: Any) -> None:
    """Add facts that became known after OUT was made."""
    _write_json(provenance_path(out), read_provenance(out) | facts)


def _write_json(path: Path, value: Any) -> None:
    staged = path.with_name(path.name + ".tmp")
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    staged.write_text(text, encoding="utf-8")
    os.replace(staged, path)
