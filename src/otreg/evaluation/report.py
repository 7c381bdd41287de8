"""One self-contained HTML file that shows a results object: numbers, figures, examples, origin.

Nothing is fetched to view it. Every number comes from the results; none is chosen by its value:
arms stand in the order of the results and examples are picked by position.
"""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otreg.evaluation import plots, summary
from otreg.evaluation._format import FILTERS
from otreg.evaluation.diff import align_words
from otreg.evaluation.measures import MEASURES
from otreg.evaluation.results import RUN_FACTS, check_results
from otreg.evaluation.summary import Spread
from otreg.evaluation.wer import is_character_language

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEY_MEASURES = (
    "coverage",
    "nearest_token",
    "alignment_path_score",
    "alignment_monotonicity",
    "retrieval_late_top1",
    "best_cosine",
    "centroid_distance",
    "collapse",
)
"""The gap measures that are drawn; the table shows all."""

_NOT_TERMS = {"arm", "seed", "stage", "step", "epoch", "learning_rate", "grad_norm"}
_NOT_TERMS |= {"train_loss", "train_runtime", "total_flos"}
_NOT_TERMS |= {"train_samples_per_second", "train_steps_per_second"}


def write_report(
    results: Mapping[str, Any],
    out: str | Path,
    *,
    title: str = "Speech-text alignment: error rates and modality gap",
    figures: "Mapping[str, Figure] | None" = None,
    examples: Sequence[Mapping[str, Any]] | None = None,
    examples_per_corpus: int = 2,
    alignments_per_domain: int = 1,
) -> Path:
    """Render results into one HTML file.

    Works for one run or many, with or without a base arm, in any number of languages.

    Args:
        results: as results.json holds it (see `otreg.evaluation.results`).
        out: the HTML file to write; its folder is made.
        title: heading of the page.
        figures: further figures by caption, beside those drawn from the results.
        examples: transcripts to show instead of results["transcripts"], in the same form.
        examples_per_corpus: utterances shown of each corpus.
        alignments_per_domain: utterances in and out of domain whose maps are drawn, the first ones.

    Returns:
        The path written.

    Raises:
        ValueError: results that do not follow the schema.
    """
    import jinja2

    check_results(results)
    shown = results.get("transcripts") or [] if examples is None else examples
    template = resources.files("otreg.evaluation").joinpath("templates/report.html.j2")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= FILTERS
    html = environment.from_string(template.read_text(encoding="utf-8")).render(
        title=title,
        **_context(results),
        figures=_figures(results, figures or {}),
        curves=_curves(results),
        alignments=_alignments(results, alignments_per_domain),
        examples=_examples(results, shown, examples_per_corpus),
    )
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(html, encoding="utf-8")
    return out


def _context(results: Mapping[str, Any]) -> dict[str, Any]:
    """Everything in the page that is text or number."""
    arms, base = summary.arms(results), summary.base_arm(results)
    where = summary.corpora(results)
    seeds = sorted({row["seed"] for row in results["rows"]})
    summaries = summary.summarise(results)
    styles = plots.arm_styles(arms, base)
    languages = list(dict.fromkeys(row["language"] for row in results["rows"]))
    return {
        "arms": arms,
        "base": base,
        "colours": {arm: style[0] for arm, style in styles.items()},
        "descriptions": results.get("arm_descriptions") or {},
        "seeds": seeds,
        "languages": languages,
        "domains": {d: [c for c, w in where.items() if w == d] for d in ("in", "out")},
        "summaries": summaries,
        "cards": [_card(entry, base) for entry in summaries],
        "wer": _wer_table(results, arms, where),
        "by_language": _language_table(results, arms, where, languages),
        "breakdown": {d: _breakdown(results, arms, where, d) for d in ("in", "out")},
        "sizes": _sizes(results, where),
        "measures": _measure_rows(summaries),
        "facts": results,
        "runs": [_run(run) for run in _runs(results)],
        "normaliser": _normaliser(results.get("normaliser")),
    }


def _card(entry: summary.ArmSummary, base: str | None) -> dict[str, Any]:
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


def _wer_table(
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


def _language_table(
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


def _breakdown(
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


def _sizes(results: Mapping[str, Any], where: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """corpus -> utterances and words, of the first arm and seed that has it."""
    pooled = summary.by_corpus(results)
    sizes = {}
    for corpus in where:
        first = next(v for (_, _, c), v in pooled.items() if c == corpus)
        sizes[corpus] = {"utterances": first["num_utterances"], "words": first["num_words"]}
    return sizes


def _measure_rows(summaries: Sequence[summary.ArmSummary]) -> list[dict[str, Any]]:
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


def _figures(results: Mapping[str, Any], extra: "Mapping[str, Figure]") -> list[dict[str, str]]:
    """The figures as inline SVG, each with its caption."""
    several = "Small marks: single seeds. " if len({r["seed"] for r in results["rows"]}) > 1 else ""
    drawn: list[tuple[str, Figure | None]] = [
        (
            "Word error rate by corpus. Lines: 95 % bootstrap intervals over utterances. "
            + several,
            plots.plot_wer_by_corpus(results),
        ),
        (
            "Macro word error rate relative to the base arm of the same seed. Filled: out of "
            "domain; hollow: in domain. " + several,
            plots.plot_ratio_by_arm(results),
        ),
        (
            "Gap measures by arm; ↑ more is better, ↓ less is better. Filled: mean over the "
            "out-of-domain corpora; hollow: in domain. " + several,
            plots.plot_gap_measures(results, KEY_MEASURES),
        ),
    ]
    drawn += list(extra.items())
    return [
        {"caption": caption.strip(), "svg": plots.figure_to_svg(figure, f"figure{index}")}
        for index, (caption, figure) in enumerate(drawn)
        if figure is not None
    ]


def _curves(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """Every logged value of every stage."""
    logged = dict.fromkeys(
        (record["stage"], name)
        for record in results.get("curves") or []
        for name, value in record.items()
        if name not in _NOT_TERMS and isinstance(value, int | float)
    )
    drawn = [plots.plot_training_curves(results, name, stage=stage) for stage, name in logged]
    return [
        {"svg": plots.figure_to_svg(figure, f"curve{index}")}
        for index, figure in enumerate(drawn)
        if figure is not None
    ]


def _alignments(results: Mapping[str, Any], per_domain: int) -> list[dict[str, Any]]:
    """Every arm's transport plan and distances for a few utterances of the smallest seed."""
    where = summary.corpora(results)
    records = results.get("alignments") or []
    seed = min((record["seed"] for record in records), default=0)
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for index, record in enumerate(records):
        key = (record["corpus"], record["id"])
        domain = where.get(record["corpus"], "out")
        shown = sum(group["domain"] == domain for group in groups.values())
        if record["seed"] != seed or (key not in groups and shown >= per_domain):
            continue
        group = groups.setdefault(key, {"text": record.get("text", ""), "panels": []})
        group |= {"corpus": record["corpus"], "id": record["id"], "seed": seed, "domain": domain}
        group["objective"] = record.get("objective", "")
        panel = {"arm": record["arm"], "maps": []}
        for draw, values, labels, name in (
            (plots.plot_transport_plan, "plan", "targets", "transport plan"),
            (plots.plot_distances, "distances", "tokens", "distances"),
        ):
            if record.get(values):
                figure = draw(
                    record[values],
                    record[labels],
                    record["frame_s"],
                    title=f"{record['arm']}: {name}",
                )
                panel["maps"].append(plots.figure_to_svg(figure, f"align{index}-{values}"))
        group["panels"].append(panel)
    return list(groups.values())


def _examples(
    results: Mapping[str, Any], transcripts: Sequence[Mapping[str, Any]], per_corpus: int
) -> list[dict[str, Any]]:
    """Chosen utterances, every arm's hypothesis with its differences marked."""
    order = {arm: index for index, arm in enumerate(summary.arms(results))}
    shown = []
    for records in summary.select_examples(transcripts, per_corpus):
        first = records[0]
        language = first.get("language", "")
        ranked = sorted(records, key=lambda record: order.get(record["arm"], len(order)))
        shown.append(
            {
                "corpus": first["corpus"],
                "language": language,
                "id": first["id"],
                "seed": first["seed"],
                "reference": first["reference"],
                "joiner": "" if is_character_language(language) else " ",
                "arms": [
                    {
                        "arm": record["arm"],
                        "edits": align_words(record["reference"], record["hypothesis"], language),
                    }
                    for record in ranked
                ],
            }
        )
    return shown


def _runs(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What is known of all runs together, then what is known of single ones alone."""
    shared = {name: results[name] for name in RUN_FACTS if name in results}
    single: list[Mapping[str, Any]] = [
        {name: value for name, value in run.items() if shared.get(name) != value}
        for run in results.get("runs") or []
    ]
    known = [run for run in single if set(run) & set(RUN_FACTS)]
    return [shared, *known] if shared else known


def _run(run: Mapping[str, Any]) -> dict[str, Any]:
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


def _normaliser(value: Any) -> str:
    """Name and version of the normaliser, however they were recorded."""
    if isinstance(value, Mapping):
        return "/".join(str(value[key]) for key in ("name", "version") if key in value)
    return str(value or "")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
