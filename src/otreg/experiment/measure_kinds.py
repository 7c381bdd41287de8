"""Measures beyond error rates and gap, which an experiment asks for by name.

A measure is called as `measure(of, **options)`: `of` is a `Measured` (the trained model, its corpora,
…), the options are those of the experiment's YAML. It returns lists of records of results.json, such
as {"samples": […], "gap_by_layer": […]}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from otreg.experiment.extra_measures import Measured, divergences_of, layers_of, topic_share
from otreg.names import find_named

__all__ = ["MEASURES", "MeasureKind", "Measured", "find_measure"]

Measure = Callable[..., Mapping[str, list[dict[str, Any]]]]


@dataclass(frozen=True)
class MeasureKind:
    """A measure.

    Attributes:
        function: see this module's docstring.
        names: the measures that its records are of, for gates; None = not known beforehand.
        is_of_one_corpus: whether it takes one corpus alone.
    """

    function: Measure
    names: tuple[str, ...] | None
    is_of_one_corpus: bool = False


MEASURES: dict[str, MeasureKind] = {
    "layers": MeasureKind(
        layers_of, ("retrieval_pooled_mrr", "retrieval_pooled_top1", "best_cosine")
    ),
    "topic-share": MeasureKind(topic_share, ("topic_share",), is_of_one_corpus=True),
    "divergences": MeasureKind(divergences_of, ("misalignment", "forgetting")),
}
"""By the name that an experiment gives."""


def find_measure(name: str) -> MeasureKind:
    """The measure of a name, or of `package.module:callable`.

    Raises:
        ValueError: there is none; the nearest name is offered.
    """
    if name in MEASURES:
        return MEASURES[name]
    return MeasureKind(find_named("measure", name, MEASURES), None)
