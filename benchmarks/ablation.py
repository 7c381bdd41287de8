"""The demo's ablation: every ingredient of "best" added and removed, stage 2 alone, and controls.

    python benchmarks/ablation.py --out runs/ablation --split development --seeds 1
    python benchmarks/ablation.py --out runs/ablation --split test --seeds 3 --rows base,otreg,best

Corpora and towers are those of `otreg demo`, and are shared by all rows. Prints one table: error
rates in percent, the ratio of the out-of-domain macro error rate to base's (mean over seeds, and
each seed), and gap measures out of domain.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from pathlib import Path
from statistics import mean

from otreg.evaluation import summary
from otreg.experiment.reading import load_experiment
from otreg.experiment.runner import run_experiment

SNAP = "model.snap=0.8"
LATE_SNAP = "stages.align.model.snap=0.8"
DROP = "stages.align.model.drop_threshold=0.8"
BOTH = "adapt align"


def _ot(stages: str, weight: float = 0.3, **options: object) -> list[str]:
    filled = ", ".join(f"{key}: {value}" for key, value in options.items())
    text = f"objectives.otreg={{weight: {weight}, warmup_fraction: 0.1, options: {{{filled}}}}}"
    return [f"stages.{stage}.{text}" for stage in stages.split()]


def _ctc(stages: str, weight: float = 0.3, **options: object) -> list[str]:
    filled = ", ".join(f"{key}: {value}" for key, value in {"tied": "true", **options}.items())
    text = f"objectives.ctc={{weight: {weight}, options: {{{filled}}}}}"
    return [f"stages.{stage}.{text}" for stage in stages.split()]


def _control(stages: str, name: str, weight: float = 0.3) -> list[str]:
    """OTReg's place taken by a control of controls.py, which stands beside this script."""
    text = f"objectives.otreg={{type: 'controls:{name}', weight: {weight}, warmup_fraction: 0.1}}"
    return [f"stages.{stage}.{text}" for stage in stages.split()]


def _every_stage(setting: str) -> list[str]:
    return [f"stages.{stage}.{setting}" for stage in BOTH.split()]


# the ingredients of best, at its weights and its temperature
OT = _ot(BOTH, 1, temperature=0.1, pad_anchor="true")
CTC = _ctc(BOTH, 1)
BEST = [*OT, *CTC, SNAP, DROP]
FROZEN = "stages.align.train=[adapter]"
LONGER = "stages.align.steps=400"
ROWS: dict[str, list[str]] = {
    # one ingredient of best alone
    "best's otreg alone": OT,
    "best's otreg + dropping": [*OT, DROP],
    "best's ctc tied alone": CTC,
    "snap alone": [SNAP],
    # best without one; dropping needs the pad vector, which only otreg learns
    "best - otreg and dropping": [*CTC, SNAP],
    "best - ctc tied": [*OT, SNAP, DROP],
    "best - snap": [*OT, *CTC, DROP],
    "best - dropping": [*OT, *CTC, SNAP],
    "best - pad anchor and dropping": [*_ot(BOTH, 1, temperature=0.1), *CTC, SNAP],
    # stage 2 alone
    "otreg: stage 2 only": _ot("align"),
    "ctc tied: stage 2 only": _ctc("align", 1),
    "snap: stage 2 only": [LATE_SNAP],
    "best: stage 2 only": [
        *_ot("align", 1, temperature=0.1, pad_anchor="true"),
        *_ctc("align", 1),
        LATE_SNAP,
        DROP,
    ],
    # the paper's loss at another weight
    "otreg-paper: weight 3": ["stages.align.objectives.otreg_paper={weight: 3}"],
    "otreg-paper: both stages": _every_stage("objectives.otreg_paper={weight: 0.3}"),
    # options of OTReg
    "otreg: weight 1": _ot(BOTH, 1),
    "otreg: no prior": _ot(BOTH, position_prior=0),
    "otreg: prior 0.5": _ot(BOTH, position_prior=0.5),
    "otreg: cost": _ot(BOTH, loss="cost", plan_gradient="implicit"),
    "otreg: pad anchor": _ot(BOTH, pad_anchor="true"),
    "otreg: pad estimate": _ot(BOTH, pad_anchor="true", pad_mass="estimate"),
    "otreg: relaxed 0.1": _ot(BOTH, rho_target=0.1),
    "otreg: count": _ot(BOTH, target_mass="count"),
    "otreg: all tokens apart": _ot(BOTH, unique_threshold="null"),
    "otreg: epsilon 0.05": _ot(BOTH, epsilon=0.05),
    # the temperature of the vocabulary losses
    "otreg: temperature 0.2": _ot(BOTH, temperature=0.2),
    "otreg: temperature 0.1": _ot(BOTH, temperature=0.1),
    "otreg: temperature 0.03": _ot(BOTH, temperature=0.03),
    "ctc tied: temperature 0.05": _ctc(BOTH, 1, temperature=0.05),
    # which rows of the table the vocabulary losses score (the demo's table has 160 rows)
    "otreg: vocabulary step": _ot(BOTH, vocabulary="step"),
    "otreg: vocabulary 8": _ot(BOTH, vocabulary=8),
    "otreg: vocabulary 32": _ot(BOTH, vocabulary=32),
    "ctc tied: vocabulary step": _ctc(BOTH, 1, vocabulary="step"),
    "ctc tied: vocabulary 8": _ctc(BOTH, 1, vocabulary=8),
    "ctc tied: vocabulary 32": _ctc(BOTH, 1, vocabulary=32),
    # controls, which no option of OTReg makes
    "diagonal only": _control(BOTH, "PositionsAlone"),
    "nearest token": _control(BOTH, "NearestToken"),
    "ctc tied: weight 0.3": _ctc(BOTH),
    # best otherwise
    "best: weights 0.3": [
        *_ot(BOTH, temperature=0.1, pad_anchor="true"),
        *_ctc(BOTH),
        SNAP,
        DROP,
    ],
    "best + merge 0.9": [*BEST, "stages.align.model.merge_threshold=0.9"],
    # another budget
    "base: language model frozen": [FROZEN],
    "best: language model frozen": [*BEST, FROZEN],
    "base: stage 2 of 400 steps": [LONGER],
    "otreg: stage 2 of 400 steps": [*_ot(BOTH), LONGER],
    "best: stage 2 of 400 steps": [*BEST, LONGER],
    "base: stage 2 at 3e-3": ["stages.align.learning_rate=3e-3"],
    "best: stage 2 at 3e-3": [*BEST, "stages.align.learning_rate=3e-3"],
    "base: batch 48": _every_stage("batch_size=48"),
    "best: batch 48": [*BEST, *_every_stage("batch_size=48")],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--split", choices=("development", "test"), default="development")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rows", help="names, separated by commas; default: all")
    parser.add_argument("--set", nargs="*", default=[], help="overrides of every row's run")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    experiment = load_experiment()
    arms = {**experiment.arms, **ROWS}
    experiment = dataclasses.replace(
        experiment, arms={name: (*arguments.set, *overrides) for name, overrides in arms.items()}
    )
    rows = arguments.rows.split(",") if arguments.rows else None
    results = run_experiment(
        experiment,
        arguments.out,
        seeds=arguments.seeds,
        arms=rows,
        split=arguments.split,
        progress=print,
    )
    print_table(results)


def print_table(results: dict) -> None:
    """Print the ablation's table as Markdown."""
    by_corpus = summary.by_corpus(results)
    corpora = list(summary.corpora(results))
    macro = summary.macro(results, "out")
    gaps: dict[tuple[str, str], list[float]] = {}
    for record in results["gap"]:
        if summary.corpora(results)[record["corpus"]] == "out":
            for name in ("coverage", "nearest_token", "centroid_distance", "collapse"):
                gaps.setdefault((record["arm"], name), []).append(record[name])
    names = ["arm", *corpora, "out", "ratio", "by seed", "cover", "nearest", "centroid", "collapse"]
    print("| " + " | ".join(names) + " |\n|" + "---|" * len(names))
    for arm in summary.arms(results):
        seeds = sorted(macro[arm])
        cells = [
            f"{100 * mean(by_corpus[arm, seed, corpus]['wer'] for seed in seeds):.1f}"
            for corpus in corpora
        ]
        ratios = [macro[arm][seed] / macro["base"][seed] for seed in seeds]
        cells += [f"{100 * mean(macro[arm].values()):.1f}", f"{mean(ratios):.2f}"]
        cells += [" ".join(f"{ratio:.2f}" for ratio in ratios)]
        cells += [
            f"{mean(gaps[arm, name]):.2f}"
            for name in ("coverage", "nearest_token", "centroid_distance", "collapse")
        ]
        print(f"| {arm} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
