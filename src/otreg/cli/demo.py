"""`otreg demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from otreg.cli.application import app, quiet_transformers


@app.command(epilog="Example: otreg demo --out demo-out --seeds 3 --arms base,otreg")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for corpora, models and results.")] = Path(
        "demo-out"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 1,
    arms: Annotated[
        str | None, typer.Option(help="Which arms, by commas; base always runs. Default: all.")
    ] = None,
) -> None:
    """Show all of otreg in miniature: no GPU, no network, some minutes.

    Synthesises corpora, trains tiny towers and a speech language model in several arms, tests them
    on speech unlike the training's, and writes results.json and report.html.
    """
    from otreg.experiment.runner import run_demo

    quiet_transformers()
    chosen = None if arms is None else [name.strip() for name in arms.split(",") if name.strip()]
    results = run_demo(
        out, seeds=seeds, arms=chosen, progress=lambda line: typer.echo(line, err=True)
    )
    from otreg.cli.tables import print_arms

    print_arms(results)
    typer.echo(f"results: {out / 'results.json'}\nreport:  {out / 'report.html'}")
