"""`otreg train`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from otreg.cli.application import app, quiet_transformers
from otreg.cli.run_summary import summary_lines

if TYPE_CHECKING:
    from otreg.training.watching import Measure


@app.command(
    epilog="Example: otreg train digits model.audio_tower=towers/audio_tower "
    "model.language_model=towers/language_model data.train=train.jsonl --out runs/digits"
)
def train(
    config: Annotated[
        str,
        typer.Argument(
            help="The recipe: a YAML file, or a shipped one by name (digits, miniature, paper)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The run folder; new or empty.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Changes to the recipe, such as seed=1 or stages.1.objectives.otreg.weight=0.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Train a speech language model through the stages of a recipe.

    Writes the resolved recipe, versions, log, checkpoints and the final model into --out.
    Relative paths start at the current directory.
    """
    from otreg.training.config import load_config

    resolved = load_config(config, overrides or [])
    resolved.check_ready()
    from otreg.training.stages import train as run

    quiet_transformers()
    measure: Measure | None = None
    if resolved.watch is not None:
        from otreg.evaluation.watching import MeasureWhileTraining

        measure = MeasureWhileTraining
    folder = run(resolved, out, resume=resume, quiet=quiet, measure=measure)
    for line in summary_lines(out, [stage.name for stage in resolved.stages]):
        typer.echo(line)
    typer.echo(f"model: {folder}")
    typer.echo(f"next:  {shlex.join(['otreg', 'evaluate', str(out), '--data', 'NAME=MANIFEST'])}")
