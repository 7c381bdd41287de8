"""The list `samples` of results.json: a measure utterance by utterance, for paired intervals.

A measure is a ratio of two sums over utterances: word errors over reference words, reciprocal ranks
over ones, divergences over text positions. A record holds both, in the order of the utterances.
Two records with one `ids_digest` tell of the same utterances in the same order, so an interval of
their difference can resample both together.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Scalar = str | int | float | bool


def sample_record(
    *,
    arm: str,
    seed: int,
    corpus: str,
    measure: str,
    ids: Sequence[str],
    numerator: Iterable[float],
    denominator: Iterable[float] | None = None,
    at: Mapping[str, Scalar] | None = None,
) -> dict[str, Any]:
    """One record of `samples`.

    Args:
        arm: name of what is compared.
        seed: the run's seed.
        corpus: what was measured on.
        measure: such as "wer"; see `otreg.evaluation.measures.MEASURES`.
        ids: the utterances' ids, in the order of the numbers.
        numerator: what each utterance adds to the sum above.
        denominator: what each adds to the sum below; None = ones, so that the measure is a mean.
            An utterance that the measure does not cover has 0 in both.
        at: where it was measured, such as {"layer": 1}.

    Raises:
        ValueError: as many numbers as ids are expected, finite, no negative denominator.

    Example:
        >>> record = sample_record(arm="base", seed=0, corpus="noise", measure="wer",
        ...                        ids=["a", "b"], numerator=[1, 0], denominator=[4, 3])
        >>> record["numerator"], record["denominator"], record["at"]
        ([1, 0], [4, 3], {})
    """
    above = _numbers(numerator)
    below = [1] * len(above) if denominator is None else _numbers(denominator)
    record = {
        "arm": arm,
        "seed": seed,
        "corpus": corpus,
        "measure": measure,
        "at": dict(at or {}),
        "ids_digest": ids_digest(ids),
        "numerator": above,
        "denominator": below,
    }
    if len(above) != len(ids):
        raise ValueError(
            f"expected a number for each of {len(ids)} utterances, received {len(above)} of "
            f"{measure} on {corpus}"
        )
    check_sample(record, f"samples of {measure}")
    return record


def ids_digest(ids: Sequence[str]) -> str:
    """16 hexadecimal digits that tell one list of utterances, in its order, from another."""
    return hashlib.sha256(json.dumps(list(ids)).encode()).hexdigest()[:16]


def check_sample(record: Mapping[str, Any], place: str) -> None:
    """Raise ValueError, naming the place, where a record of `samples` is not as described."""
    at = record["at"]
    if not isinstance(at, Mapping) or not all(isinstance(v, Scalar) for v in at.values()):
        raise ValueError(f"{place}: expected 'at' to map names to plain values, received {at!r}")
    above, below = record.get("numerator"), record.get("denominator")
    if not isinstance(above, list) or not isinstance(below, list) or len(above) != len(below):
        raise ValueError(f"{place}: expected lists numerator and denominator of one length")
    if not all(_finite(value) for value in above + below):
        raise ValueError(f"{place}: expected finite numbers in numerator and denominator")
    if min(below, default=0) < 0 or not any(below):
        raise ValueError(f"{place}: expected denominators of at least 0, not all of them 0")


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _numbers(values: Iterable[float]) -> list[float]:
    """Plain numbers, short in JSON: six significant digits, whole numbers without a point."""
    items = values.tolist() if hasattr(values, "tolist") else list(values)
    return [int(v) if v.is_integer() else float(f"{v:.6g}") for v in map(float, items)]
