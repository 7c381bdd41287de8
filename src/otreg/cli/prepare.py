"""`otreg prepare`: programs over manifests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from otreg.cli.application import app, command_group, quiet_transformers
from otreg.cli.command_line import command_line

programs = command_group(
    help="Programs over manifests: each writes a richer manifest, or fills a cache. A program that "
    "was killed goes on where it was when the same command is given again.",
    epilog="Example: otreg prepare words train.jsonl --out train.words.jsonl --ctc MODEL",
)
app.add_typer(programs, name="prepare")

Inputs = Annotated[list[Path], typer.Argument(metavar="IN", help="Manifests (JSONL).")]
Out = Annotated[
    Path, typer.Option(help="The manifest to write, in a folder above all audio (see --root).")
]
Root = Annotated[
    Path | None,
    typer.Option(
        help="Folder that audio paths start from, in IN and OUT alike. Default: each manifest's "
        "own folder."
    ),
]
Skip = Annotated[
    bool, typer.Option("--skip", help="Leave rows out that cannot be treated, and count them.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an OUT that was made otherwise.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]
Device = Annotated[
    str | None, typer.Option(help="Such as cpu or cuda:0. Default: a GPU where there is one.")
]


@programs.command(
    epilog="Example: otreg prepare words train.jsonl --out train.words.jsonl "
    "--ctc facebook/wav2vec2-base-960h"
)
def words(
    context: typer.Context,
    inputs: Inputs,
    out: Out,
    ctc: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Align by a Hugging Face CTC model: folder or Hub id."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Align by the transport plan of a trained model."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="New times for rows that have some, too.")
    ] = False,
    unknown: Annotated[
        str,
        typer.Option(
            help="Letters and digits that the CTC model does not know: refuse the row, or let any "
            "character stand there."
        ),
    ] = "refuse",
    against: Annotated[
        Path | None,
        typer.Option(metavar="EXACT", help="A manifest with exact words, to show errors against."),
    ] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=MANIFEST", help="A further manifest to judge by --against; repeatable."
        ),
    ] = None,
    root: Root = None,
    skip: Skip = False,
    overwrite: Overwrite = False,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Write when each word is said.

    Words that rows have already are kept. The others come from a CTC model, or from a model that
    otreg trained. With --against, prints how far word starts are from exact ones.
    """
    if ctc is not None and model is not None:
        raise ValueError(
            "--ctc and --model are two sources; make a manifest of each, and compare them by "
            "--against EXACT --beside NAME=MANIFEST"
        )
    if unknown not in ("refuse", "any"):
        raise ValueError(f"--unknown must be refuse or any, got {unknown!r}")
    if unknown != "refuse" and ctc is None:
        raise ValueError("--unknown is for --ctc; leave it out")
    others = _named(beside or [])
    if others and against is None:
        raise ValueError("--beside names rivals to judge against exact words; give --against too")
    name = "ctc" if ctc is not None else "plan" if model is not None else "words"
    if taken := {name, "even"} & set(others):
        raise ValueError(f"--beside {min(taken)} is the name of another row; choose another")
    _check_files([*inputs, *([] if against is None else [against]), *others.values()])
    quiet_transformers()
    from otreg.prepare.words import WordSource, prepare_words

    source: WordSource | None = None
    if ctc is not None:
        from otreg.prepare.ctc_words import CtcWords

        source = CtcWords.from_pretrained(ctc, unknown=unknown, device=_device(device))
    elif model is not None:
        from otreg.prepare.plan_words import PlanWords

        source = PlanWords.from_pretrained(model, device=_device(device))
    made = prepare_words(
        inputs,
        out,
        source,
        replace_words=replace,
        root=root,
        skip=skip,
        overwrite=overwrite,
        quiet=quiet,
        command=command_line("prepare words", context.params),
    )
    if against is not None:
        _compare(out, name, against, others, root)
    _echo_counts(made, out)


@programs.command(
    epilog="Example: otreg prepare split talks.words.jsonl --out talks.split.jsonl --max-s 20"
)
def split(
    context: typer.Context,
    inputs: Inputs,
    out: Out,
    max_s: Annotated[float, typer.Option(metavar="SECONDS", help="Longest piece.")] = 20.0,
    root: Root = None,
    skip: Skip = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Split long recordings between their words, so that each piece keeps its transcript.

    The rows need words (see otreg prepare words); pieces are named ID#1, ID#2 and so on. The audio
    stays where it is.
    """
    _check_files(inputs)
    from otreg.prepare.split import prepare_split

    made = prepare_split(
        inputs,
        out,
        max_s=max_s,
        root=root,
        skip=skip,
        overwrite=overwrite,
        quiet=quiet,
        command=command_line("prepare split", context.params),
    )
    _echo_counts(made, out)


@programs.command(
    epilog="Example: otreg prepare select web.txt --out chosen.jsonl --scores scores.jsonl "
    "--count 1000 --embedder sentence-transformers/all-MiniLM-L6-v2"
)
def select(
    context: typer.Context,
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="IN", help="Text files, a text a line, or manifests (.jsonl)."),
    ],
    out: Out,
    scores: Annotated[
        Path, typer.Option(help="Misalignments: JSONL with id, misalignment and positions.")
    ],
    count: Annotated[int, typer.Option(min=1, help="Texts to choose.")],
    embedder: Annotated[
        str,
        typer.Option(
            metavar="MODEL|tfidf",
            help="A Hugging Face text model (folder or Hub id), or tfidf for small trials.",
        ),
    ],
    clusters: Annotated[int, typer.Option(min=1, help="Clusters K of balanced k-means.")] = 128,
    gamma: Annotated[
        float, typer.Option(min=0, help="P(c) is proportional to P_web(c) M(c)^gamma.")
    ] = 5.0,
    seed: Annotated[int, typer.Option(min=0, help="Of clusters and draw.")] = 0,
    fit_on: Annotated[
        int, typer.Option(min=1, help="The most texts that clusters are fitted to.")
    ] = 10_000,
    permute: Annotated[
        bool, typer.Option("--permute", help="A control: scores dealt out at random.")
    ] = False,
    language: Annotated[
        str, typer.Option(help="Language code of the texts in text files; und = unknown.")
    ] = "und",
    root: Root = None,
    overwrite: Overwrite = False,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Choose texts that are worth speaking: SALAD's active selection.

    Texts are clustered by their sentence embeddings; clusters whose texts are misaligned between
    speech and text are drawn from more. Needs the extra select.
    """
    _check_files([*inputs, scores])
    quiet_transformers()
    from otreg.prepare.embedders import TFIDF, load_embedder
    from otreg.prepare.select import prepare_select

    made = prepare_select(
        inputs,
        out,
        load_embedder(embedder, device=None if embedder == TFIDF else _device(device), seed=seed),
        scores=scores,
        count=count,
        num_clusters=clusters,
        gamma=gamma,
        seed=seed,
        fit_on=fit_on,
        permute=permute,
        language=language,
        root=root,
        overwrite=overwrite,
        quiet=quiet,
        command=command_line("prepare select", context.params),
    )
    _echo_counts(made, out)


@programs.command(
    epilog="Example: otreg prepare encoder-states train.jsonl dev.jsonl --out cache "
    "--model openai/whisper-small"
)
def encoder_states(
    context: typer.Context,
    inputs: Inputs,
    out: Annotated[Path, typer.Option(metavar="CACHE", help="Folder of the cache.")],
    model: Annotated[
        str,
        typer.Option(
            metavar="RUN|TOWER",
            help="A run, a model folder, or the folder or Hub id of a speech encoder.",
        ),
    ],
    batch_size: Annotated[int, typer.Option(min=1, help="Utterances encoded together.")] = 16,
    root: Root = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Run a frozen encoder over manifests once, for all stages, arms and seeds."""
    _check_files(inputs)
    quiet_transformers()
    from otreg.prepare.encoder_source import prepare_encoder_states

    made = prepare_encoder_states(
        inputs,
        out,
        model,
        batch_size=batch_size,
        device=_device(device),
        root=root,
        quiet=quiet,
        command=command_line("prepare encoder-states", context.params),
    )
    _echo_counts(made, out)


def _compare(
    out: Path, name: str, against: Path, others: Mapping[str, Path], root: Path | None
) -> None:
    """Judge OUT and other manifests against exact words; show it and add it to the provenance."""
    from otreg.cli.tables import print_word_times
    from otreg.data.manifest import read_manifest
    from otreg.evaluation.word_sources import compare_sources
    from otreg.prepare.provenance import add_to_provenance

    sources = {key: read_manifest(path, root=root) for key, path in {name: out, **others}.items()}
    measures = compare_sources(read_manifest(against, root=root), sources)
    add_to_provenance(out, word_times={"against": str(against), "sources": measures})
    print_word_times(measures)


def _echo_counts(made: Mapping[str, Any], out: Path) -> None:
    counts = made["counts"]
    shown = [f"{name.replace('_', ' ')} {value}" for name, value in counts.items() if value]
    skipped = [f"{reason}: {number}" for reason, number in counts.get("skipped", {}).items()]
    shown = [text for text in shown if not text.startswith("skipped")]
    typer.echo(", ".join(shown + (["skipped (" + "; ".join(skipped) + ")"] if skipped else [])))
    typer.echo(f"written: {out}")


def _check_files(paths: list[Path]) -> None:
    for path in paths:
        if not path.is_file():
            raise ValueError(f"no such file: {str(path)!r}")


def _named(items: list[str]) -> dict[str, Path]:
    """NAME=MANIFEST options as a mapping."""
    named: dict[str, Path] = {}
    for item in items:
        name, equals, path = item.partition("=")
        if not (name and equals and path):
            raise ValueError(f"--beside {item!r}: expected NAME=MANIFEST, such as ctc=ctc.jsonl")
        if name in named:
            raise ValueError(f"--beside {item}: the name {name!r} stands twice")
        named[name] = Path(path)
    return named


def _device(device: str | None) -> str:
    """The device asked for; a GPU where there is one and none was named."""
    import torch

    return device or ("cuda" if torch.cuda.is_available() else "cpu")
