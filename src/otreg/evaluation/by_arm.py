"""What gates compare, arm by arm: the values themselves, where a gate shows a difference alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from otreg.evaluation.gate_specs import Side, parse_specs
from otreg.evaluation.summary import Spread, arms

__all__ = ["ArmTable", "gate_tables"]

_SHOWN_ELSEWHERE = ("wer", "cer")
_Values = dict[tuple[str, str, str], dict[int, float]]  # arm, corpus, place -> seed -> value


@dataclass(frozen=True)
class ArmTable:
    """One measure.

    Attributes:
        title: the measure, and where it was measured if all columns share that.
        columns: corpora; or places, where there is one corpus alone.
        rows: arm -> a value for each column over seeds, None where it was not measured.
    """

    title: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[Spread | None, ...]]


def gate_tables(results: Mapping[str, Any]) -> list[ArmTable]:
    """The measures that the gates of results.json name, error rates aside.

    A value pools the utterances of a corpus; a spread is over seeds. Measures without records in
    `samples` are left out.
    """
    sides: dict[str, list[Side]] = {}
    for spec in parse_specs(results.get("gate_specs") or []):
        for comparison in spec.comparisons:
            for side in (comparison.of, comparison.other):
                if side is not None and side.measure not in _SHOWN_ELSEWHERE:
                    sides.setdefault(side.measure, []).append(side)
    tables: list[ArmTable] = []
    for measure, named in sides.items():
        corpora = list(dict.fromkeys(corpus for side in named for corpus in side.corpora))
        places = {_place(at): None for side in named for at in side.at}
        values = _values(results, measure)
        if len(corpora) == 1:
            cells = {place or corpora[0]: (corpora[0], place) for place in places}
            tables += _table(measure, cells, values, results)
        else:
            for place in places:
                title = f"{measure}, {place}" if place else measure
                tables += _table(title, {c: (c, place) for c in corpora}, values, results)
    return tables


def _values(results: Mapping[str, Any], measure: str) -> _Values:
    found: _Values = {}
    for record in results.get("samples") or []:
        if record["measure"] == measure:
            key = record["arm"], record["corpus"], _place(record["at"])
            value = sum(record["numerator"]) / sum(record["denominator"])
            found.setdefault(key, {})[record["seed"]] = value
    return found


def _table(
    title: str,
    cells: Mapping[str, tuple[str, str]],
    values: _Values,
    results: Mapping[str, Any],
) -> list[ArmTable]:
    """The table of these cells, by column; none where nothing was measured."""
    rows = {
        arm: tuple(Spread.of(values.get((arm, *cell), {})) for cell in cells.values())
        for arm in arms(results)
    }
    rows = {arm: row for arm, row in rows.items() if any(row)}
    return [ArmTable(title, tuple(cells), rows)] if rows else []


def _place(at: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(at.items()))
