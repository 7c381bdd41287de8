"""`otreg export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from otreg.cli.application import app, quiet_transformers
from otreg.cli.trained_model import TrustRemoteCode


@app.command(
    epilog="Example: otreg export runs/digits --out digits --license apache-2.0 --push me/digits"
)
def export(
    run: Annotated[Path, typer.Argument(help="A run folder, or a model folder.")],
    out: Annotated[Path, typer.Option(help="The folder to write; new or empty.")],
    licence: Annotated[
        str | None,
        typer.Option("--license", help="For the card, as the Hub names it: apache-2.0, other, …"),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            help="For the card's table. Default: the run's results.json, if there is one."
        ),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Upload it to the Hub; needs --license."),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="With --push: make a new repository private.")
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Write a model as a folder for the Hugging Face Hub: weights, processor, card and code.

    It loads by transformers' Auto classes, with otreg installed and without it.
    """
    if private and push is None:
        raise ValueError("--private says how to push; give --push OWNER/NAME, too")
    from otreg.export.folder import export_model
    from otreg.export.push import check_push, push_folder

    if push is not None:
        check_push(push, licence)
    quiet_transformers()
    folder = export_model(
        run, out, licence=licence, results=results, trust_remote_code=trust_remote_code
    )
    typer.echo(f"folder: {folder}")
    if licence is None:
        typer.echo("the card names no licence: export again with --license before others use it")
    if push is not None:
        typer.echo(f"pushed: {push_folder(folder, push, private=private)}")
