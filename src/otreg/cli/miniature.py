"""`otreg miniature`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from otreg.cli.application import app, quiet_transformers


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
    with TowerBars() as bars:
        folder = build_miniature(
            manifests,
            out,
            root=root,
            texts=text or [],
            seed=seed,
            settings=settings,
            progress=bars,
        )
    typer.echo(
        f"model.audio_tower={folder / 'audio_tower'}\n"
        f"model.language_model={folder / 'language_model'}"
    )


class TowerBars:
    """A bar for each tower on stderr; call it with a name, the steps done, and of how many."""

    def __init__(self) -> None:
        self._bars: dict[str, Any] = {}

    def __enter__(self) -> TowerBars:
        return self

    def __exit__(self, *_: object) -> None:
        for bar in self._bars.values():
            bar.close()

    def __call__(self, name: str, done: int, total: int) -> None:
        """Show where a tower stands."""
        from tqdm import tqdm

        if name not in self._bars:
            self._bars[name] = tqdm(
                total=total, desc=name.replace("_", " "), unit="step", mininterval=1
            )
        bar = self._bars[name]
        bar.update(done - bar.n)
