"""`otreg prepare split`: long recordings in pieces, each with its own transcript."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from otreg.data.audio import audio_info
from otreg.data.splitting import CannotSplitError, Piece, cut, word_pieces
from otreg.data.utterance import Utterance
from otreg.prepare.program import Program, Unusable
from otreg.prepare.provenance import read_provenance

logger = logging.getLogger(__name__)

_METHOD = 1  # raise it when the same settings come to give other pieces


def prepare_split(
    inputs: Sequence[str | Path], out: str | Path, *, max_s: float, **options: Any
) -> dict[str, Any]:
    """Write a manifest in which no recording is longer than max_s.

    Long ones are cut between their words, see `otreg.data.splitting`; the audio stays where it is.
    Rows that are short enough, and rows without audio, are passed on as they are.

    Args:
        inputs: manifests.
        out: the manifest to write.
        max_s: longest piece, in seconds.
        options: root, skip, overwrite, quiet, command, as for `Program`.

    Returns:
        The provenance.

    Raises:
        ValueError: a long recording that cannot be split, or what `Program` refuses.
    """
    settings = {"method": _METHOD, "max_s": max_s}
    with Program("split", inputs, out, settings, **options) as program:
        rows = program.read()
        if not program.is_done(rows):
            made = program.map(
                rows,
                lambda batch: [_as_json(row, max_s) for row in batch],
                settings,
                decode=_pieces,
            )
            kept = [
                (row, pieces) for row, pieces in zip(rows, made, strict=True) if pieces is not None
            ]
            _warn_of_slow_formats(kept)
            program.publish(
                [part for row, pieces in kept for part in cut(row, pieces)],
                split=sum(bool(pieces) for _, pieces in kept),
                kept=sum(not pieces for _, pieces in kept),
            )
    return read_provenance(out)


def _as_json(row: Utterance, max_s: float) -> Any:
    try:
        return [list(dataclasses.astuple(piece)) for piece in word_pieces(row, max_s)]
    except CannotSplitError as error:
        return Unusable(error.reason, str(error))


def _pieces(record: list[list[Any]]) -> list[Piece]:
    return [Piece(*fields) for fields in record]


def _warn_of_slow_formats(rows: Sequence[tuple[Utterance, list[Piece]]]) -> None:
    """Every piece of an ogg or mp3 file is decoded from the file's start."""
    slow = [
        row
        for row, pieces in rows
        if pieces and audio_info(row, max_duration_s=float("inf")).from_start
    ]
    if slow:
        logger.warning(
            "%d split recordings are ogg or mp3, such as %s: each of their pieces is decoded from "
            "the start of its file; convert them to flac",
            len(slow),
            slow[0].audio,
        )
