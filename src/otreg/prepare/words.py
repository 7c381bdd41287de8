"""`otreg prepare words`: when each word of each utterance is said."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

from otreg.data.manifest import Utterance, Word
from otreg.prepare.program import Program, Unusable
from otreg.prepare.provenance import read_provenance

logger = logging.getLogger(__name__)

_METHOD = 1  # raise it when the same settings come to give other times


class WordSource(Protocol):
    """Gives word times: `CtcWords` and `PlanWords` do.

    Attributes:
        name: in tables.
        settings: all that decides the times besides the rows, as JSON.
        batch_size: rows that it takes at once.
    """

    name: str
    settings: dict[str, Any]
    batch_size: int

    def __call__(self, rows: Sequence[Utterance]) -> Sequence[Sequence[Word] | Unusable]:
        """Word times of each row, or why it has none."""


def prepare_words(
    inputs: Sequence[str | Path],
    out: str | Path,
    source: WordSource | None = None,
    *,
    replace_words: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Write a manifest whose utterances have word times.

    Rows that have words keep them, so the exact ones of a synthesiser stay. Rows without audio are
    passed on as they are.

    Args:
        inputs: manifests.
        out: the manifest to write.
        source: makes the times that are missing; None = none may be missing.
        replace_words: make times for all rows, those with words too.
        options: root, skip, overwrite, quiet, command, as for `Program`.

    Returns:
        The provenance.

    Raises:
        ValueError: rows without words and no source, or what `Program` refuses.
    """
    settings = {
        "method": _METHOD,
        "words": {"source": "manifest"} if source is None else source.settings,
        "replace": replace_words,
    }
    with Program("words", inputs, out, settings, **options) as program:
        rows = program.read()
        todo = [
            row for row in rows if row.audio is not None and (replace_words or row.words is None)
        ]
        if todo and source is None:
            raise ValueError(
                f"{todo[0].name} has no words, as {len(todo)} of {len(rows)} rows; name what makes "
                "them: --ctc MODEL or --model RUN"
            )
        if not program.is_done(rows):
            made: dict[str, Any] = {}
            if source is not None:
                results = program.map(
                    todo,
                    lambda batch: [_as_json(words) for words in source(batch)],
                    settings["words"],  # type: ignore[arg-type]
                    batch_size=source.batch_size,
                )
                made = dict(zip((row.id for row in todo), results, strict=True))
            program.publish(
                list(_with_words(rows, made)),
                made=sum(words is not None for words in made.values()),
                kept=sum(row.words is not None and row.id not in made for row in rows),
                without_audio=sum(row.audio is None for row in rows),
            )
    return read_provenance(out)


def _as_json(words: Sequence[Word] | Unusable) -> Any:
    return words if isinstance(words, Unusable) else [asdict(word) for word in words]


def _with_words(rows: Sequence[Utterance], made: Mapping[str, Any]) -> list[Utterance]:
    """The rows with their new words, without those that have none to give."""
    richer = []
    for row in rows:
        if row.id not in made:
            richer.append(row)
        elif made[row.id] is not None:
            words = tuple(Word(**word) for word in made[row.id])
            richer.append(replace(row, words=words))
    return richer
