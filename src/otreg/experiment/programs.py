"""Programs that make a manifest from others, for the `prepare` of an experiment.

A program is called as

    program(inputs, out, **options)

with the manifests that it reads, the manifest that it writes and the options of the experiment's YAML;
besides `model`, the folder of a trained model, where the experiment names an arm, and `audio_tower` and
`language_model`, folders, where it asks for the towers. It may write files of its own beside `out`.
An experiment names a program of this table, or `package.module:callable`.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from otreg.data.manifest import Utterance, read_manifest, write_manifest
from otreg.names import find_named

__all__ = ["PROGRAMS", "Program", "find_program"]

Program = Callable[..., Any]


def subset(
    inputs: Sequence[Path],
    out: Path,
    *,
    share: float | None = None,
    count: int | None = None,
    seed: int = 0,
) -> None:
    """Keep a random part of the utterances, in their order; a smaller part lies in a larger one.

    Args:
        inputs: manifests, read one after the other.
        out: the manifest to write.
        share: of the utterances, from 0 to 1; or
        count: how many.
        seed: of the draw.

    Raises:
        ValueError: not exactly one of share and count, or out of their range.
    """
    rows = _rows(inputs)
    if (share is None) == (count is None):
        raise ValueError("subset: give either share or count (exactly one)")
    kept = round(share * len(rows)) if share is not None else int(count or 0)
    if not 0 < kept <= len(rows):
        raise ValueError(f"subset: expected 1 to {len(rows)} utterances to keep, received {kept}")
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    write_manifest(out, [rows[position] for position in sorted(order[:kept])])


def shuffled_text(inputs: Sequence[Path], out: Path, *, seed: int = 0) -> None:
    """Give every utterance the transcript of another of its language: a control.

    An answer in `messages` stays with its utterance: only what objectives align speech with changes.

    Args:
        inputs: manifests, read one after the other.
        out: the manifest to write.
        seed: of the draw.

    Raises:
        ValueError: a language with a single spoken utterance.
    """
    _write_exchanged(inputs, out, ("text",), seed)


def shuffled_audio(inputs: Sequence[Path], out: Path, *, seed: int = 0) -> None:
    """Give every utterance the audio of another of its language: a control.

    Args:
        inputs: manifests, read one after the other.
        out: the manifest to write.
        seed: of the draw.

    Raises:
        ValueError: a language with a single spoken utterance.
    """
    _write_exchanged(inputs, out, ("audio", "start_s", "end_s", "speaker", "attributes"), seed)


PROGRAMS: dict[str, Program] = {
    "subset": subset,
    "shuffled-text": shuffled_text,
    "shuffled-audio": shuffled_audio,
}
"""By the name that an experiment gives."""


def find_program(name: str) -> Program:
    """The program of a name, or of `package.module:callable`.

    Raises:
        ValueError: there is none; the nearest name is offered.
    """
    program: Program = find_named("program", name, PROGRAMS)
    return program


def _write_exchanged(inputs: Sequence[Path], out: Path, fields: Sequence[str], seed: int) -> None:
    """Write the rows; those with speech get some fields of another row, and no word times."""
    rows = _rows(inputs)
    spoken = [position for position, row in enumerate(rows) if row.audio is not None]
    order = _derangement([rows[position].language for position in spoken], seed)
    changed = list(rows)
    for position, source in zip(spoken, order, strict=True):
        taken = {name: getattr(rows[spoken[source]], name) for name in fields}
        changed[position] = dataclasses.replace(rows[position], words=None, **taken)
    write_manifest(out, changed)


def _rows(inputs: Sequence[Path]) -> list[Utterance]:
    return [row for path in inputs for row in read_manifest(path)]


def _derangement(groups: Sequence[str], seed: int) -> list[int]:
    """For every position another of its group, each once: a cycle through the group, shuffled."""
    rng = random.Random(seed)
    result = [0] * len(groups)
    for group in sorted(set(groups)):
        members = [position for position, name in enumerate(groups) if name == group]
        if len(members) < 2:
            raise ValueError(
                f"expected at least two utterances of language {group!r} to exchange, received one"
            )
        rng.shuffle(members)
        for position, other in zip(members, [*members[1:], members[0]], strict=True):
            result[position] = other
    return result
