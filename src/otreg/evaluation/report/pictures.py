"""The figures of the page as inline SVG, and its example transcripts."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from otreg.evaluation import plots, summary
from otreg.evaluation.diff import align_words
from otreg.languages import is_character_language

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

LAYER_MEASURES = (
    "retrieval_pooled_mrr",
    "alignment_path_score",
    "alignment_monotonicity",
    "centroid_distance_unit",
    "collapse",
)
"""The measures that are drawn by layer."""

_NOT_TERMS = {"arm", "seed", "stage", "step", "epoch", "learning_rate", "grad_norm"}
_NOT_TERMS |= {"train_loss", "train_runtime", "total_flos"}
_NOT_TERMS |= {"train_samples_per_second", "train_steps_per_second"}


def comparisons(
    results: Mapping[str, Any] | None, extra: "Mapping[str, Figure]"
) -> list[dict[str, str]]:
    """The figures as inline SVG, each with its caption: of error rates and gap, and further ones."""
    drawn = [*(_compared(results) if results is not None else []), *extra.items()]
    return [
        {"caption": caption.strip(), "svg": plots.figure_to_svg(figure, f"figure{index}")}
        for index, (caption, figure) in enumerate(drawn)
        if figure is not None
    ]


def _compared(results: Mapping[str, Any]) -> "list[tuple[str, Figure | None]]":
    several = "Small marks: single seeds. " if len({r["seed"] for r in results["rows"]}) > 1 else ""
    return [
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


def training_curves(results: Mapping[str, Any]) -> list[dict[str, str]]:
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


def by_layer(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """The measures at the language model's layers, one figure each."""
    drawn = [(name, plots.plot_by_layer(results, name)) for name in LAYER_MEASURES]
    return [
        {"svg": plots.figure_to_svg(figure, f"layer-{name}")}
        for name, figure in drawn
        if figure is not None
    ]


def alignments(results: Mapping[str, Any], per_domain: int) -> list[dict[str, Any]]:
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


def examples(
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
