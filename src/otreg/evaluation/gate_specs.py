"""Gates and controls as an experiment's YAML writes them: what is compared, and its bound.

    - name: retrieval at the chosen layers
      kind: gate                       # or control
      measure: retrieval_pooled_mrr    # in samples, or a value of gap, gap_by_layer or rows
      corpus: held-out                 # a list: the mean over them
      at: {layer: [0, 1]}              # a list: the mean over them
      of: chosen                       # an arm; a list: the mean over them
      minus: base                      # or `over: base`; left out: the value itself
      bound: ">= 0.1"

`minus` and `over` may also name what differs: `minus: {at: {prompt: seen}}` compares the same arm.
A bound is one of >=, >, <=, <, == and a number, `within [a, b]`, or `contains x`: the 95 % interval
holds x. `interval` before it judges the whole interval: `interval > 0`. A number may be a fraction.
`each: seed` asks for the bound in every seed alone, `any: arm` in at least one of the arms of `of`;
both take seed, arm, corpus or a name in `at`. docs/evaluation.md describes every key.
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from otreg.names import nearest

KINDS = ("gate", "control")
_SIDE_KEYS = ("arm", "measure", "corpus", "at")
_KEYS = ("name", "kind", "measure", "corpus", "at", "of", "minus", "over", "bound", "each", "any")
_TEXT_KEYS = ("statement", "reason")
_BOUND = re.compile(r"\s*(interval\s+)?(>=|<=|==|>|<|within\b|contains\b)\s*(.+?)\s*")
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Bound:
    """What a figure, or its interval, must satisfy."""

    comparison: str
    values: tuple[float, ...]
    whole_interval: bool = False

    @classmethod
    def parse(cls, text: Any) -> "Bound":
        """Read ">= 0.1", "interval > 0", "within [0, 0.05]" or "contains 1/6".

        Raises:
            ValueError: anything else.
        """
        match = _BOUND.fullmatch(str(text))
        numbers = [] if match is None else match[3].strip("[]").split(",")
        try:
            values = tuple(float(Fraction(number.strip())) for number in numbers)
        except (ValueError, ZeroDivisionError):
            values = ()
        expected = 2 if match is not None and match[2] == "within" else 1
        if match is None or len(values) != expected or list(values) != sorted(values):
            raise ValueError(
                f"expected a bound such as '>= 0.1', 'interval > 0', 'within [0, 0.05]' or "
                f"'contains 1/6', received {text!r}"
            )
        if match[1] and match[2] in ("contains", "=="):
            raise ValueError(
                f"expected 'interval' before >=, >, <=, < or within, received {text!r}; "
                "'contains' judges the interval anyway"
            )
        return cls(match[2], values, whole_interval=bool(match[1]))

    @property
    def needs_interval(self) -> bool:
        """Whether the figure alone cannot be judged."""
        return self.whole_interval or self.comparison == "contains"

    @property
    def label(self) -> str:
        """The comparison as results.json names it."""
        return f"interval {self.comparison}" if self.whole_interval else self.comparison

    def margin(self, figure: float, low: float | None, high: float | None) -> float:
        """How far inside the bound, negative = outside."""
        if self.needs_interval:
            assert low is not None
            assert high is not None
        else:
            low = high = figure
        first, last = self.values[0], self.values[-1]
        if self.comparison in (">=", ">"):
            return low - first
        if self.comparison in ("<=", "<"):
            return first - high
        if self.comparison == "contains":
            return min(first - low, high - first)
        if self.comparison == "within":
            return min(low - first, last - high)
        return -abs(figure - first)

    def holds(self, figure: float, low: float | None, high: float | None) -> bool:
        """Whether the bound is kept; equality counts for >=, <=, within and contains."""
        margin = self.margin(figure, low, high)
        if self.comparison in (">", "<"):
            return margin > 0
        return margin >= (0 if self.comparison == "==" else -_ROUNDING)


@dataclass(frozen=True)
class Side:
    """One of the two values compared: a measure's mean over arms, corpora and places."""

    measure: str
    arms: tuple[str, ...]
    corpora: tuple[str, ...]
    at: tuple[dict[str, Any], ...]

    def __str__(self) -> str:
        """What it is, in words."""
        words = [self.measure, "of", " and ".join(self.arms), "on", " and ".join(self.corpora)]
        places = " and ".join(
            ", ".join(f"{name} {value}" for name, value in at.items()) for at in self.at if at
        )
        return " ".join([*words, *(["at", places] if places else [])])


@dataclass(frozen=True)
class Comparison:
    """What one bound is applied to: a value, a difference, or a ratio; in all seeds or one."""

    of: Side
    relation: Literal["minus", "over"] | None
    other: Side | None
    case: dict[str, Any]  # which seed, arm, … it is, where `each` or `any` splits a gate

    def __str__(self) -> str:
        """What it is, in words."""
        return f"{self.of} {self.relation} {self.other}" if self.other else str(self.of)


@dataclass(frozen=True)
class GateSpec:
    """A gate or a control.

    Attributes:
        compared: what is compared, in words.
        comparisons: one; several where `each` or `any` splits it, but not by seed.
        split: "each" (all must hold), "any" (one must), or None.
        by_seed: whether every seed is judged alone.
    """

    name: str
    kind: str
    bound: Bound
    compared: str
    comparisons: tuple[Comparison, ...]
    split: Literal["each", "any"] | None
    by_seed: bool
    statement: str
    reason: str


def parse_specs(specs: Iterable[Mapping[str, Any]]) -> list[GateSpec]:
    """Read gates and controls.

    Raises:
        ValueError: naming the gate: an unknown or missing key, a name that comes twice, a bound or
            a split that cannot be read.
    """
    parsed: list[GateSpec] = []
    for index, spec in enumerate(specs):
        name = spec.get("name") if isinstance(spec, Mapping) else None
        place = f"gate {name!r}" if name else f"gates[{index}]"
        try:
            parsed.append(_parse(spec))
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        if [other.name for other in parsed].count(parsed[-1].name) > 1:
            raise ValueError(f"{place}: expected each name once, received it twice")
    return parsed


def gate_measures(specs: Iterable[Mapping[str, Any]]) -> list[str]:
    """The measures that gates and controls compare: what an evaluation must write samples of."""
    sides = (
        side
        for spec in parse_specs(specs)
        for comparison in spec.comparisons
        for side in (comparison.of, comparison.other)
        if side is not None
    )
    return list(dict.fromkeys(side.measure for side in sides))


def _parse(spec: Any) -> GateSpec:
    if not isinstance(spec, Mapping):
        raise ValueError(f"expected a mapping of keys, received {spec!r}")
    known = _KEYS + _TEXT_KEYS
    for key in spec:
        if key not in known:
            raise ValueError(f"unknown key {key!r}; {nearest(str(key), known)}")
    missing = [
        key for key in ("name", "kind", "measure", "corpus", "of", "bound") if key not in spec
    ]
    if isinstance(spec.get("of"), Mapping):
        missing = [key for key in missing if key not in spec["of"]]
    if missing:
        raise ValueError(f"expected the keys {', '.join(missing)}")
    if spec["kind"] not in KINDS:
        raise ValueError(f"expected kind 'gate' or 'control', received {spec['kind']!r}")
    for one, two in (("minus", "over"), ("each", "any")):
        if one in spec and two in spec:
            raise ValueError(f"expected {one!r} or {two!r}, received both")
    split = "each" if "each" in spec else "any" if "any" in spec else None
    names = _as_list(spec[split]) if split else []
    cases = [dict(spec)] if not split else _expanded(spec, [n for n in names if n != "seed"])
    if split == "any" and "seed" in names:
        raise ValueError("expected 'any' to name arm, corpus or a name in 'at', received seed")
    whole = str(_comparison({**spec, "case": {}}))
    return GateSpec(
        name=str(spec["name"]),
        kind=spec["kind"],
        bound=Bound.parse(spec["bound"]),
        compared=f"{split} {', '.join(names)}: {whole}" if split else whole,
        comparisons=tuple(_comparison(case) for case in cases),
        split=split,  # type: ignore[arg-type]
        by_seed="seed" in names,
        statement=str(spec.get("statement", "")),
        reason=str(spec.get("reason", "")),
    )


def _expanded(spec: Mapping[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    """The spec once per value of what `each` or `any` names, each with its "case"."""
    at = spec.get("at") or {}
    choices: list[list[Any]] = []
    for name in names:
        values = {"arm": spec["of"], "corpus": spec.get("corpus"), **at}.get(name)
        if values is None or isinstance(values, Mapping):
            known = ("seed", "arm", "corpus", *at)
            raise ValueError(f"cannot split by {name!r}; {nearest(name, known)}")
        choices.append(_as_list(values))
    expanded = []
    for values in itertools.product(*choices):
        case = dict(zip(names, values, strict=True))
        changed = {"of" if name == "arm" else name: value for name, value in case.items()}
        places = {name: changed.pop(name) for name in at if name in changed}
        expanded.append({**spec, **changed, "at": {**at, **places}, "case": case})
    return expanded


def _comparison(spec: Mapping[str, Any]) -> Comparison:
    relation: Literal["minus", "over"] | None
    relation = "minus" if "minus" in spec else "over" if "over" in spec else None
    of = _side(spec["of"], spec)
    here = {**spec, "of": list(of.arms)}
    other = None if relation is None else _side(spec[relation], here)
    return Comparison(of, relation, other, spec.get("case", {}))


def _side(value: Any, spec: Mapping[str, Any]) -> Side:
    """A side: what it says itself, the rest from the spec; an arm alone says the arm."""
    own = value if isinstance(value, Mapping) else {"arm": value}
    for key in own:
        if key not in _SIDE_KEYS:
            raise ValueError(f"unknown key {key!r}; {nearest(str(key), _SIDE_KEYS)}")
    arms = _as_list(own.get("arm", spec["of"]))
    if not arms or not all(isinstance(arm, str) for arm in arms):
        raise ValueError(f"expected the name of an arm, or several, received {arms!r}")
    at = {**(spec.get("at") or {}), **(own.get("at") or {})}
    at = {name: choice for name, choice in at.items() if choice is not None}
    places = itertools.product(*(_as_list(choice) for choice in at.values()))
    return Side(
        measure=str(own.get("measure", spec.get("measure"))),
        arms=tuple(arms),
        corpora=tuple(str(name) for name in _as_list(own.get("corpus", spec.get("corpus")))),
        at=tuple(dict(zip(at, place, strict=True)) for place in places),
    )


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
