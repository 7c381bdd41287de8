"""`otreg demo` and `otreg miniature`."""

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


@app.command(epilog="Example: otreg miniature train.jsonl --out towers")
def miniature(
    manifests: Annotated[list[Path], typer.Argument(help="Speech with transcripts (JSONL).")],
    out: Annotated[Path, typer.Option(help="Folder for the towers.")] = Path("towers"),
    text: Annotated[
        list[Path] | None,
        typer.Option(help="More text for the language model, a sentence a line; repeatable."),
    ] = None,
    units: Annotated[
        str,
        typer.Option(
            help="What the encoder learns: characters, or phonemes by espeak-ng (extra demo)."
        ),
    ] = "characters",
    root: Annotated[
        Path | None,
        typer.Option(
            help="Folder that the manifests' audio paths start from and stay in. Default: each "
            "manifest's own folder."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and data order.")] = 0,
) -> None:
    """Train a tiny speech encoder and a tiny language model on your own manifests.

    Writes audio_tower/ and language_model/ in Hugging Face format, to try a recipe without
    downloading weights.
    """
    for path in [*manifests, *(text or [])]:
        if not path.is_file():
            raise ValueError(f"no such file: {str(path)!r}")
    if units not in ("characters", "phonemes"):
        raise ValueError(f"--units must be characters or phonemes, got {units!r}")
    from otreg.synthetic.towers import MiniatureSettings, build_miniature

    quiet_transformers()
    settings = MiniatureSettings(units=units)  # type: ignore[arg-type]
    folder = build_miniature(
        manifests, out, root=root, texts=text or [], seed=seed, settings=settings
    )
    typer.echo(
        f"model.audio_tower={folder / 'audio_tower'}\n"
        f"model.language_model={folder / 'language_model'}"
    )
