"""`otreg demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from otreg.cli.application import app, quiet_transformers
from otreg.cli.command_line import command_line


@app.command(epilog="Example: otreg demo --out demo-out --seeds 3 --arms base,otreg")
def demo(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(help="The experiment: a shipped one by name, or a YAML file.")
    ] = "otreg",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for corpora, models and results. Default: demo-out, "
            "or demo-out-NAME for another experiment than otreg.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 1,
    arms: Annotated[
        str | None, typer.Option(help="Which arms, by commas; base always runs. Default: all.")
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            help="Evaluate on the test corpora, or on those that choices are made on (development)."
        ),
    ] = "test",
    processes: Annotated[
        int, typer.Option(min=1, help="Steps run side by side, one thread each.")
    ] = 2,
) -> None:
    """Show a system in miniature: no GPU, no network, some minutes.

    Synthesises corpora, trains tiny towers and a speech language model in several arms, tests them
    on speech unlike the training's, and writes results.json and report.html.
    """
    from otreg.experiment.reading import load_experiment
    from otreg.experiment.runner import run_experiment

    quiet_transformers()
    experiment = load_experiment(name)
    if out is None:
        out = Path("demo-out" if experiment.name == "otreg" else f"demo-out-{experiment.name}")
    chosen = None if arms is None else [arm.strip() for arm in arms.split(",") if arm.strip()]
    results = run_experiment(
        experiment,
        out,
        seeds=seeds,
        arms=chosen,
        split=split,
        num_processes=processes,
        progress=lambda line: typer.echo(line, err=True),
        command=command_line("demo", context.params),
    )
    from otreg.cli.tables import print_arms, print_gate_measures, print_gates

    print_arms(results)
    print_gate_measures(results)
    print_gates(results)
    typer.echo(f"results: {out / 'results.json'}\nreport:  {out / 'report.html'}")
