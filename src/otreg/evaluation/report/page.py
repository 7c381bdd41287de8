"""One self-contained HTML file that shows a results object: numbers, figures, examples, origin.

Nothing is fetched to view it. Every number comes from the results; none is chosen by its value:
arms stand in the order of the results and examples are picked by position.
"""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otreg.evaluation import plots, summary
from otreg.evaluation.by_arm import gate_tables
from otreg.evaluation.report import pictures, tables
from otreg.evaluation.report.formats import FILTERS
from otreg.evaluation.results import check_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    shows_errors = results.get("error_rates") is not False
    if examples is None:
        examples = results.get("transcripts") or [] if shows_errors else []
    template = resources.files("otreg.evaluation.report").joinpath("templates/report.html.j2")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= FILTERS
    html = environment.from_string(template.read_text(encoding="utf-8")).render(
        title=title,
        **_context(results),
        error_rates=shows_errors,
        figures=pictures.comparisons(results if shows_errors else None, figures or {}),
        curves=pictures.training_curves(results),
        alignments=pictures.alignments(results, alignments_per_domain),
        by_layer=pictures.by_layer(results),
        examples=pictures.examples(results, examples, examples_per_corpus),
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
        "cards": [tables.card(entry, base) for entry in summaries],
        "wer": tables.wer_table(results, arms, where),
        "by_language": tables.language_table(results, arms, where, languages),
        "breakdown": {d: tables.breakdown(results, arms, where, d) for d in ("in", "out")},
        "sizes": tables.sizes(results, where),
        "measures": tables.measure_rows(summaries),
        "gates": [tables.gate_row(row) for row in results.get("gates") or []],
        "gate_tables": gate_tables(results),
        "facts": results,
        "runs": [tables.run_facts(run) for run in tables.runs(results)],
        "normaliser": tables.normaliser(results.get("normaliser")),
    }
