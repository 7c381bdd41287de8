"""Judging gates and controls: figures and paired intervals from results, held or not.

For a value v of one arm, corpus and place, at one seed:

    v = Σ_u numerator_u / Σ_u denominator_u              over the utterances u of a sample
    side = mean of v over the side's arms, corpora and places
    figure = mean over seeds of side, side − other, or side / other

The interval is the 2.5 and 97.5 % points of the figure over resamples. Utterances are drawn with
replacement, the same for every arm and seed (paired); from `SEEDS_TO_RESAMPLE` seeds on, seeds are
drawn too. With fewer seeds the interval tells nothing of another training run, and `resampled` says
"utterances" alone.
"""

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from otreg.evaluation import summary
from otreg.evaluation.bootstrap import BOOTSTRAP_SAMPLES, divide, interval, resampled_sums
from otreg.evaluation.gate_specs import Bound, Comparison, GateSpec, Side, parse_specs
from otreg.evaluation.samples import Scalar

SEEDS_TO_RESAMPLE = 5

_Place = tuple[tuple[str, Scalar], ...]


class _NotMeasuredError(ValueError):
    """What a gate needs is not in the results."""


@dataclass(frozen=True)
class _Cell:
    """One measure of one arm, seed, corpus and place."""

    value: float
    digest: str | None = None  # None: known for the corpus alone, so utterances cannot be drawn
    sums: np.ndarray | None = field(default=None, repr=False)  # (utterances, 2)


@dataclass(frozen=True)
class _Figure:
    value: float
    low: float | None
    high: float | None
    resampled: str
    seeds: tuple[int, ...]
    case: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        known = {} if self.low is None else {"low": self.low, "high": self.high}
        return {"figure": self.value, **known, "resampled": self.resampled}


def judge(results: Mapping[str, Any], specs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Judge every gate and control by results.

    Args:
        results: as results.json holds them; `samples` give figures with intervals over utterances,
            values of `gap`, `gap_by_layer` and `rows` give figures alone.
        specs: gates and controls, see `otreg.evaluation.gate_specs`.

    Returns:
        The rows of the list `gates`, in the order of the specs, with the fields that
        docs/evaluation.md describes. Where something is not in the results, held is None and
        `missing` says what.

    Raises:
        ValueError: a spec that cannot be read.

    Example:
        >>> from otreg.evaluation.samples import sample_record
        >>> def sample(arm, errors):
        ...     return sample_record(arm=arm, seed=0, corpus="test", measure="wer",
        ...                          ids=["a", "b"], numerator=errors, denominator=[4, 4])
        >>> results = {"rows": [], "samples": [sample("base", [2, 2]), sample("new", [1, 1])]}
        >>> (row,) = judge(results, [dict(name="fewer errors", kind="gate", measure="wer",
        ...                corpus="test", of="new", minus="base", bound="interval < 0")])
        >>> row["figure"], row["high"], row["held"], row["resampled"]
        (-0.25, -0.25, True, 'utterances')
    """
    cells = _cells(results)
    return [_row(cells, spec) for spec in parse_specs(specs)]


def _row(cells: Mapping[tuple, Mapping[int, _Cell]], spec: GateSpec) -> dict[str, Any]:
    first = spec.comparisons[0]
    sides = [side for c in spec.comparisons for side in (c.of, c.other) if side is not None]
    row: dict[str, Any] = {
        "name": spec.name,
        "kind": spec.kind,
        "statement": spec.statement,
        "measure": first.of.measure,
        "corpus": _distinct(corpus for side in sides for corpus in side.corpora),
        "arms": _distinct(arm for side in sides for arm in side.arms),
        "seeds": [],
        "compared": spec.compared,
        "comparison": spec.bound.label,
        "bound": spec.bound.values[0] if len(spec.bound.values) == 1 else list(spec.bound.values),
        "held": None,
    }
    if spec.reason:
        row["reason"] = spec.reason
    try:
        figures = [f for c in spec.comparisons for f in _figures(cells, c, by_seed=spec.by_seed)]
        for figure in figures:
            if spec.bound.needs_interval and figure.low is None:
                raise _NotMeasuredError(
                    f"no interval of {first.of.measure}: it has no samples, and there are fewer "
                    f"than {SEEDS_TO_RESAMPLE} seeds"
                )
    except _NotMeasuredError as error:
        row["missing"] = str(error)
        return row
    judged = [(_margin(spec.bound, figure), figure) for figure in figures]
    worst = (max if spec.split == "any" else min)(judged, key=lambda pair: pair[0])[1]
    held = [spec.bound.holds(figure.value, figure.low, figure.high) for figure in figures]
    row["seeds"] = sorted({seed for figure in figures for seed in figure.seeds})
    row |= worst.as_dict()
    row["held"] = any(held) if spec.split == "any" else all(held)
    if spec.split is not None:
        row["split"] = spec.split
        row["cases"] = [
            {**figure.case, **figure.as_dict(), "held": kept}
            for figure, kept in zip(figures, held, strict=True)
        ]
    return row


def _figures(
    cells: Mapping[tuple, Mapping[int, _Cell]], comparison: Comparison, *, by_seed: bool
) -> list[_Figure]:
    """The figure of a comparison, or one for each seed."""
    sides = [side for side in (comparison.of, comparison.other) if side is not None]
    found = [_cells_of(cells, side) for side in sides]
    by_cell = [seeds for of_side in found for seeds in of_side]
    seeds = sorted(set.intersection(*(set(cell) for cell in by_cell)))
    if not seeds:
        raise _NotMeasuredError(f"no seed for which all is known that is compared: {comparison}")
    groups = [[index] for index in range(len(seeds))] if by_seed else [list(range(len(seeds)))]
    for group in groups:  # seeds that are judged apart may have utterances of their own
        _check_paired(comparison, sides, found, [seeds[index] for index in group])
    drawn = _resampled(by_cell, seeds)
    values = [np.array([[cell[seed].value for seed in seeds] for cell in side]) for side in found]
    point = _combined(comparison, [v.mean(axis=0) for v in values])  # (seeds,)
    if not np.isfinite(point).all():
        raise _NotMeasuredError(f"the ratio has a zero denominator: {comparison}")
    spread = None
    if drawn is not None:
        split = [drawn[: len(found[0])], drawn[len(found[0]) :]][: len(found)]
        spread = _combined(comparison, [cell.mean(axis=0) for cell in split])  # (resamples, seeds)
    return [
        _figure(
            point[group],
            None if spread is None else spread[:, group],
            tuple(seeds[index] for index in group),
            {**comparison.case, **({"seed": seeds[group[0]]} if by_seed else {})},
        )
        for group in groups
    ]


def _figure(
    point: np.ndarray, spread: np.ndarray | None, seeds: tuple[int, ...], case: Mapping[str, Any]
) -> _Figure:
    """Mean over seeds, with the interval over utterances, and over seeds where there are enough."""
    resampled = [] if spread is None else ["utterances"]
    if spread is None:
        spread = np.broadcast_to(point, (BOOTSTRAP_SAMPLES, len(point)))
    if len(seeds) >= SEEDS_TO_RESAMPLE:
        resampled.append("seeds")
        times = resampled_sums(np.eye(len(seeds)), key=len(seeds))  # (resamples, seeds)
        means = (spread * times).sum(axis=1) / len(seeds)
    else:
        means = spread.mean(axis=1)
    low, high = interval(means) if resampled else (None, None)
    value = float(point.mean())
    return _Figure(value, low, high, " and ".join(resampled) or "nothing", seeds, case)


def _resampled(by_cell: list[Mapping[int, _Cell]], seeds: list[int]) -> np.ndarray | None:
    """(cells, resamples, seeds) values of resampled utterances; None where no cell has any."""
    groups: dict[tuple[str, int], list[tuple[int, int]]] = {}
    drawn = np.empty((len(by_cell), BOOTSTRAP_SAMPLES, len(seeds)))
    for index, cell in enumerate(by_cell):
        for column, seed in enumerate(seeds):
            one = cell[seed]
            drawn[index, :, column] = one.value
            if one.sums is not None:
                groups.setdefault((str(one.digest), len(one.sums)), []).append((index, column))
    for (digest, _), places in groups.items():
        sums = [by_cell[index][seeds[column]].sums for index, column in places]
        totals = resampled_sums(np.concatenate(sums, axis=1), key=zlib.crc32(digest.encode()))  # type: ignore[arg-type]
        for number, (index, column) in enumerate(places):
            drawn[index, :, column] = divide(totals[:, 2 * number], totals[:, 2 * number + 1])
    return drawn if groups else None


def _combined(comparison: Comparison, sides: list[np.ndarray]) -> np.ndarray:
    if comparison.relation is None:
        return sides[0]
    return sides[0] - sides[1] if comparison.relation == "minus" else divide(sides[0], sides[1])


def _margin(bound: Bound, figure: _Figure) -> float:
    return bound.margin(figure.value, figure.low, figure.high)


def _cells(results: Mapping[str, Any]) -> dict[tuple, dict[int, _Cell]]:
    """(measure, arm, corpus, place) -> seed -> value; samples go before values of a corpus."""
    cells: dict[tuple, dict[int, _Cell]] = {}
    for (arm, seed, corpus), pooled in summary.by_corpus(results).items():
        for name in ("wer", "cer"):
            cells.setdefault((name, arm, corpus, ()), {})[seed] = _Cell(pooled[name])
    keys = ("arm", "seed", "corpus", "layer")
    for record in [*(results.get("gap") or []), *(results.get("gap_by_layer") or [])]:
        place: _Place = (("layer", record["layer"]),) if "layer" in record else ()
        for name, value in record.items():
            if name not in keys and isinstance(value, int | float):
                at = (name, record["arm"], record["corpus"], place)
                cells.setdefault(at, {})[record["seed"]] = _Cell(value)
    from_samples: dict[tuple, dict[int, _Cell]] = {}
    for record in results.get("samples") or []:
        sums = np.array([record["numerator"], record["denominator"]], dtype=np.float64).T
        above, below = sums.sum(axis=0)
        at = (record["measure"], record["arm"], record["corpus"], _place(record["at"]))
        cell = _Cell(float(above / below), record["ids_digest"], sums)
        from_samples.setdefault(at, {})[record["seed"]] = cell
    return cells | from_samples


def _cells_of(cells: Mapping[tuple, Mapping[int, _Cell]], side: Side) -> list[Mapping[int, _Cell]]:
    """The cells that a side averages."""
    found = []
    for arm in side.arms:
        for corpus in side.corpora:
            for at in side.at:
                cell = cells.get((side.measure, arm, corpus, _place(at)))
                if cell is None:
                    where = "".join(f" at {name} {value}" for name, value in at.items())
                    raise _NotMeasuredError(
                        f"no {side.measure} of arm {arm} on corpus {corpus}{where} in the results"
                    )
                found.append(cell)
    return found


def _check_paired(
    comparison: Comparison,
    sides: list[Side],
    found: list[list[Mapping[int, _Cell]]],
    seeds: Iterable[int],
) -> None:
    """One corpus has the same utterances in every arm and seed that one figure is made of."""
    seen: dict[str, str] = {}
    for side, of_side in zip(sides, found, strict=True):
        corpora = [corpus for _ in side.arms for corpus in side.corpora for _ in side.at]
        for corpus, cell in zip(corpora, of_side, strict=True):
            for one in (cell[seed] for seed in seeds):
                if one.digest is not None and seen.setdefault(corpus, one.digest) != one.digest:
                    raise _NotMeasuredError(
                        f"arms or seeds were measured on different utterances of {corpus}, so "
                        f"there is no paired interval: {comparison}"
                    )


def _place(at: Mapping[str, Scalar]) -> _Place:
    return tuple(sorted(at.items()))


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
