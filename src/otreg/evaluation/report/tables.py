"""The numbers of the page: cards, tables, and where they come from."""

from collections.abc import Mapping, Sequence
from typing import Any

from otreg.evaluation import summary
from otreg.evaluation.measures import MEASURES
from otreg.evaluation.results import RUN_FACTS
from otreg.evaluation.summary import Spread


def card(entry: summary.ArmSummary, base: str | None) -> dict[str, Any]:
    """The headline of one arm, in the same words whichever way the number falls."""
    ratio = entry.ratio_out or entry.ratio_in
    domain = "out of domain" if entry.ratio_out or entry.wer_out else "in domain"
    verdict, direction = "", 0
    if ratio is not None:
        if len(ratio.by_seed) < 2:
            verdict = "one seed: its spread is not known"
        elif ratio.high < 1:
            verdict, direction = "fewer errors in every seed", -1
        elif ratio.low > 1:
            verdict, direction = "more errors in every seed", 1
        else:
            verdict = "no difference that all seeds share"
    return {
        "arm": entry.arm,
        "is_base": entry.arm == base,
        "ratio": ratio,
        "domain": domain,
        "verdict": verdict,
        "direction": direction,
        "wer_in": entry.wer_in,
        "wer_out": entry.wer_out,
        "main": entry.wer_out or entry.wer_in,
    }


def wer_table(
    results: Mapping[str, Any], arms: Sequence[str], where: Mapping[str, str]
) -> dict[str, dict[str, Spread]]:
    """corpus -> arm -> WER over seeds."""
    pooled = summary.by_corpus(results)
    table: dict[str, dict[str, Spread]] = {}
    for corpus in where:
        table[corpus] = {}
        for arm in arms:
            found = {s: v["wer"] for (a, s, c), v in pooled.items() if (a, c) == (arm, corpus)}
            if spread := Spread.of(found):
                table[corpus][arm] = spread
    return table


def language_table(
    results: Mapping[str, Any],
    arms: Sequence[str],
    where: Mapping[str, str],
    languages: Sequence[str],
) -> list[dict[str, Any]]:
    """One entry per corpus and language; empty where no corpus has two languages."""
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    words: dict[tuple[str, str], int] = {}
    for row in results["rows"]:
        found.setdefault((row["corpus"], row["language"], row["arm"]), {})[row["seed"]] = row["wer"]
        words[row["corpus"], row["language"]] = row["num_words"]
    if len(words) == len(where):
        return []
    return [
        {
            "corpus": corpus,
            "language": language,
            "num_words": words[corpus, language],
            "wer": {
                arm: Spread.of(found[corpus, language, arm])
                for arm in arms
                if (corpus, language, arm) in found
            },
        }
        for corpus in where
        for language in languages
        if (corpus, language) in words
    ]


def breakdown(
    results: Mapping[str, Any], arms: Sequence[str], where: Mapping[str, str], domain: str
) -> list[dict[str, Any]]:
    """Kinds of error by arm: per reference word or utterance, mean over corpora and seeds."""
    pooled = summary.by_corpus(results)
    kinds = ("substitutions", "deletions", "insertions")
    table = []
    for arm in arms:
        found = [v for (a, _, c), v in pooled.items() if a == arm and where[c] == domain]
        if not found:
            continue
        entry: dict[str, Any] = {"arm": arm, "cer": _mean([v["cer"] for v in found])}
        for name in (*kinds, "empty", "runaway"):
            unit = "num_words" if name in kinds else "num_utterances"
            known = all(name in v and v.get(unit) for v in found)
            entry[name] = _mean([v[name] / v[unit] for v in found]) if known else None
        table.append(entry)
    return table


def sizes(results: Mapping[str, Any], where: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """corpus -> utterances and words, of the first arm and seed that has it."""
    pooled = summary.by_corpus(results)
    sizes = {}
    for corpus in where:
        first = next(v for (_, _, c), v in pooled.items() if c == corpus)
        sizes[corpus] = {"utterances": first["num_utterances"], "words": first["num_words"]}
    return sizes


def measure_rows(summaries: Sequence[summary.ArmSummary]) -> list[dict[str, Any]]:
    """The gap measures that any arm has, documented ones first, with their values by arm."""
    found = dict.fromkeys(name for entry in summaries for name in (*entry.gap_out, *entry.gap_in))
    known = [name for name in MEASURES if name in found]
    other = [name for name in found if name not in MEASURES and not name.startswith("num_")]
    return [
        {
            "name": name,
            "measure": MEASURES.get(name),
            "out": {entry.arm: entry.gap_out.get(name) for entry in summaries},
            "in": {entry.arm: entry.gap_in.get(name) for entry in summaries},
        }
        for name in known + other
    ]


def gate_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A gate or control as the page shows it."""
    verdict = {True: "held", False: "not held", None: "not judged"}[row.get("held")]
    bound = row["bound"]
    numbers = ", ".join(f"{value:.4g}" for value in (bound if isinstance(bound, list) else [bound]))
    cases = row.get("cases") or []
    return {
        "name": row["name"],
        "kind": row["kind"],
        "verdict": verdict,
        "figure": row.get("figure"),
        "low": row.get("low"),
        "high": row.get("high"),
        "bound": f"{row['comparison']} " + (f"[{numbers}]" if isinstance(bound, list) else numbers),
        "about": row.get("statement") or row.get("compared", ""),
        "seeds": len(row.get("seeds") or []),
        "resampled": row.get("resampled", ""),
        "why": row.get("missing") or ("" if row.get("held") else row.get("reason", "")),
        "split": row.get("split", ""),
        "cases_held": sum(bool(case["held"]) for case in cases),
        "num_cases": len(cases),
    }


def runs(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What is known of all runs together, then what is known of single ones alone."""
    shared = {name: results[name] for name in RUN_FACTS if name in results}
    single: list[Mapping[str, Any]] = [
        {name: value for name, value in run.items() if shared.get(name) != value}
        for run in results.get("runs") or []
    ]
    known = [run for run in single if set(run) & set(RUN_FACTS)]
    return [shared, *known] if shared else known


def run_facts(run: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of one run as text."""
    import yaml

    config = run.get("config")
    command = run.get("command") or []
    return {
        "name": " · ".join(
            [*run.get("arms", []), *(f"seed {seed}" for seed in run.get("seeds", []))]
        )
        if "arms" in run
        else "",
        "config": yaml.safe_dump(config, allow_unicode=True, sort_keys=False) if config else "",
        "command": command if isinstance(command, str) else "\n".join(command),
        "versions": run.get("versions") or {},
        "machine": run.get("machine") or {},
        "created": run.get("created", ""),
        "seconds": run.get("seconds") or {},
    }


def normaliser(value: Any) -> str:
    """Name and version of the normaliser, however they were recorded."""
    if isinstance(value, Mapping):
        return "/".join(str(value[key]) for key in ("name", "version") if key in value)
    return str(value or "")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
