"""What results.json says: error rates by arm and corpus, and each arm against the base."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from otreg.evaluation.wer import macro_average

_COUNTS = (
    "num_utterances",
    "num_words",
    "num_characters",
    "substitutions",
    "deletions",
    "insertions",
    "empty",
    "runaway",
)


@dataclass(frozen=True)
class Spread:
    """A number over seeds: its mean, its range, and each seed's value."""

    mean: float
    low: float
    high: float
    by_seed: dict[int, float]

    @classmethod
    def of(cls, by_seed: Mapping[int, float]) -> "Spread | None":
        """The spread of the values, None where there are none."""
        if not by_seed:
            return None
        values = list(by_seed.values())
        return cls(sum(values) / len(values), min(values), max(values), dict(by_seed))


@dataclass(frozen=True)
class ArmSummary:
    """One arm: macro word error rates by domain, and their ratio to the base arm's, seed by seed.

    The macro WER of a domain is the mean over its corpora of each corpus's WER; a corpus's WER
    pools its languages, that is all errors over all words. A ratio compares runs of one seed.
    """

    arm: str
    wer_in: Spread | None
    wer_out: Spread | None
    ratio_in: Spread | None
    ratio_out: Spread | None
    gap_in: dict[str, Spread]
    gap_out: dict[str, Spread]


def arms(results: Mapping[str, Any]) -> list[str]:
    """The arms in the order of their first row, the base arm first."""
    names = list(dict.fromkeys(row["arm"] for row in results["rows"]))
    base = base_arm(results)
    return sorted(names, key=lambda name: name != base)


def base_arm(results: Mapping[str, Any]) -> str | None:
    """The arm that the others are compared with: results["base_arm"], or "base"; None if absent."""
    name = results.get("base_arm", "base")
    return name if any(row["arm"] == name for row in results["rows"]) else None


def corpora(results: Mapping[str, Any]) -> dict[str, str]:
    """Corpus -> domain, in-domain corpora first, otherwise in the order of the rows."""
    found = {row["corpus"]: row["domain"] for row in results["rows"]}
    return dict(sorted(found.items(), key=lambda item: item[1] != "in"))


def pool_rows(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """One record for several languages (or other parts) of one arm, seed and corpus.

    wer is all errors over all words, cer over all characters (over words, where an older file has no
    num_characters). wer_low and wer_high join the parts' bootstrap intervals as
    those of independent samples: the distances to the ends, weighted by words, add in squares.

    Args:
        rows: records with num_words, wer, cer and, where known, counts and interval ends.

    Returns:
        wer, cer, the sums of the counts that all rows have, and wer_low, wer_high likewise.
    """
    rows = list(rows)
    words = sum(row["num_words"] for row in rows)
    if words == 0:
        raise ValueError("expected rows with reference words, received num_words 0 in all of them")
    pooled: dict[str, float] = {
        name: sum(row[name] for row in rows)
        for name in _COUNTS
        if all(row.get(name) is not None for row in rows)
    }
    pooled["wer"] = sum(row["wer"] * row["num_words"] for row in rows) / words
    weight = "num_characters" if pooled.get("num_characters") else "num_words"
    pooled["cer"] = sum(row["cer"] * row[weight] for row in rows) / pooled[weight]
    for name, sign in (("wer_low", -1.0), ("wer_high", 1.0)):
        if all(row.get(name) is not None for row in rows):
            reach = [(row[name] - row["wer"]) * row["num_words"] / words for row in rows]
            pooled[name] = max(0.0, pooled["wer"] + sign * math.sqrt(sum(r * r for r in reach)))
    return pooled


def by_corpus(results: Mapping[str, Any]) -> dict[tuple[str, int, str], dict[str, float]]:
    """(arm, seed, corpus) -> its rows, pooled over languages."""
    groups: dict[tuple[str, int, str], list[Mapping[str, Any]]] = {}
    for row in results["rows"]:
        groups.setdefault((row["arm"], row["seed"], row["corpus"]), []).append(row)
    return {key: pool_rows(rows) for key, rows in groups.items()}


def macro(
    results: Mapping[str, Any], domain: str, field: str = "wer"
) -> dict[str, dict[int, float]]:
    """arm -> seed -> mean of a pooled field over the corpora of a domain.

    A seed for which an arm lacks one of the domain's corpora is left out: its mean would not be
    comparable.
    """
    names = {corpus for corpus, where in corpora(results).items() if where == domain}
    pooled = by_corpus(results)
    values: dict[str, dict[int, float]] = {}
    for arm in arms(results):
        for seed in sorted({row["seed"] for row in results["rows"] if row["arm"] == arm}):
            found = [pooled.get((arm, seed, corpus), {}).get(field) for corpus in names]
            known = [value for value in found if value is not None]
            if names and len(known) == len(names):
                values.setdefault(arm, {})[seed] = macro_average(known)
    return values


def gap_by_domain(
    results: Mapping[str, Any], domain: str
) -> dict[str, dict[str, dict[int, float]]]:
    """arm -> measure -> seed -> mean over the corpora of a domain."""
    where = corpora(results)
    collected: dict[tuple[str, str, int], list[float]] = {}
    for record in results.get("gap") or []:
        if where.get(record["corpus"]) != domain:
            continue
        for name, value in record.items():
            if name in ("arm", "seed", "corpus") or isinstance(value, bool | str) or value is None:
                continue
            collected.setdefault((record["arm"], name, record["seed"]), []).append(value)
    result: dict[str, dict[str, dict[int, float]]] = {}
    for (arm, name, seed), found in collected.items():
        result.setdefault(arm, {}).setdefault(name, {})[seed] = sum(found) / len(found)
    return result


def summarise(results: Mapping[str, Any]) -> list[ArmSummary]:
    """Every arm's summary, the base arm first."""
    base = base_arm(results)
    rates = {domain: macro(results, domain) for domain in ("in", "out")}
    gaps = {domain: gap_by_domain(results, domain) for domain in ("in", "out")}

    def ratio(arm: str, domain: str) -> Spread | None:
        if base is None or arm == base:
            return None
        own, reference = rates[domain].get(arm, {}), rates[domain].get(base, {})
        shared = [seed for seed in own if reference.get(seed)]
        return Spread.of({seed: own[seed] / reference[seed] for seed in shared})

    def spreads(arm: str, domain: str) -> dict[str, Spread]:
        found = {name: Spread.of(v) for name, v in gaps[domain].get(arm, {}).items()}
        return {name: spread for name, spread in found.items() if spread is not None}

    return [
        ArmSummary(
            arm=arm,
            wer_in=Spread.of(rates["in"].get(arm, {})),
            wer_out=Spread.of(rates["out"].get(arm, {})),
            ratio_in=ratio(arm, "in"),
            ratio_out=ratio(arm, "out"),
            gap_in=spreads(arm, "in"),
            gap_out=spreads(arm, "out"),
        )
        for arm in arms(results)
    ]


def select_examples(
    transcripts: Sequence[Mapping[str, Any]], per_corpus: int
) -> list[list[Mapping[str, Any]]]:
    """The records of a few utterances per corpus, one list per utterance, arms side by side.

    Chosen by position alone (evenly spaced among those of the smallest seed that has them), never
    by result.
    """
    groups: dict[tuple[str, str], dict[int, list[Mapping[str, Any]]]] = {}
    for record in transcripts:
        seeds = groups.setdefault((record["corpus"], record["id"]), {})
        seeds.setdefault(record["seed"], []).append(record)
    corpora_: dict[str, list[list[Mapping[str, Any]]]] = {}
    for (corpus, _), seeds in groups.items():
        corpora_.setdefault(corpus, []).append(seeds[min(seeds)])
    chosen: list[list[Mapping[str, Any]]] = []
    for found in corpora_.values():
        count = min(per_corpus, len(found))
        chosen += [found[i * len(found) // count] for i in range(count)]
    return chosen
