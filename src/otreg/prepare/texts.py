"""Texts to choose from: lines of text files and rows of manifests alike."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otreg.data.manifest import Utterance
from otreg.data.messages import text_row


@dataclass(frozen=True)
class Score:
    """The misalignment of one text.

    Args:
        id: of a row among the texts, or of a text of its own.
        misalignment: KL(P(.|text) || P(.|mixed)) summed over the text's positions, in nats.
        positions: how many positions that were.
        text: the text, None where the file does not give it.
    """

    id: str
    misalignment: float
    positions: float
    text: str | None = None


def text_of(row: Utterance) -> str:
    """The text of a row: its transcript, else what its messages hold in text."""
    if row.text:
        return row.text
    parts = [part for message in row.messages or () for part in message["content"]]
    return " ".join(part["text"] for part in parts if part.get("text"))


def read_texts(path: Path, language: str) -> list[Utterance]:
    """Read a text file, one text a line; blank lines are passed over.

    Args:
        path: UTF-8.
        language: of all its texts.

    Returns:
        Rows without speech whose ids are the file's name and the line's number, "web:12".

    Raises:
        ValueError: a file that cannot be read, or not as UTF-8.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot read texts from it: {error}; expected UTF-8") from error
    return [
        text_row(f"{path.stem}:{number}", line.strip(), language, source=f"{path}:{number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def read_scores(path: Path) -> list[Score]:
    """Read misalignments: JSONL with "id", "misalignment" and "positions", and "text" at will.

    The two numbers may also stand under "attributes" or "custom", so that a manifest will do.

    Raises:
        ValueError: naming the line, for anything else.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot read scores from it: {error}") from error
    scores = [
        _score(line, f"{path}:{number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not scores:
        raise ValueError(f"{path}: no scores in it; expected one JSON object a line")
    return scores


def _score(line: str, where: str) -> Score:
    expected = 'expected {"id": …, "misalignment": nats, "positions": number}'
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: not valid JSON ({error}); {expected}") from error
    if not isinstance(record, dict) or not isinstance(record.get("id"), str):
        raise ValueError(f"{where}: a score needs an id; {expected}")
    places: Sequence[Any] = (record, record.get("attributes"), record.get("custom"))
    found: dict[str, float] = {}
    for name in ("misalignment", "positions"):
        values = [place[name] for place in places if isinstance(place, dict) and name in place]
        value = values[0] if values else None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{where}: {name} is {value!r}; {expected}")
        if not math.isfinite(value) or value < 0 or (name == "positions" and value == 0):
            raise ValueError(f"{where}: {name} is {value}; expected a number above 0")
        found[name] = float(value)
    text = record.get("text")
    return Score(record["id"], text=text if isinstance(text, str) else None, **found)
