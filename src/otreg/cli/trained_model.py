"""`otreg evaluate`, `align` and `report`: what is done with a trained model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from otreg.cli.application import app, quiet_transformers
from otreg.cli.command_line import command_line

Run = Annotated[
    Path,
    typer.Argument(
        help="A run folder, a model folder or a Hub id, of otreg's own or of any family that it reads."
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run code that comes with the model; only if you trust its authors.",
    ),
]
Device = Annotated[
    str | None, typer.Option(help="Such as cpu or cuda:0. Default: a GPU where there is one.")
]
Root = Annotated[
    Path | None,
    typer.Option(
        help="Folder that the manifests' audio paths start from and stay in. Default: each "
        "manifest's own folder."
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Utterances decoded together.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Most tokens of a transcript.")]


@app.command(
    epilog="Example: otreg evaluate runs/digits --data heard=heard.jsonl "
    "--data unheard=unheard.jsonl --in-domain heard --out runs/digits/results.json"
)
def evaluate(
    context: typer.Context,
    run: Run,
    data: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=MANIFEST",
            help="A corpus and its manifest, or a YAML file that says where other data is "
            "(type: huggingface, path: …); repeatable. Without NAME=, the file's name.",
        ),
    ],
    in_domain: Annotated[
        list[str] | None,
        typer.Option(help="The NAME of a corpus of the training data's kind; repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Default: results.json in the run.")] = None,
    arm: Annotated[
        str | None, typer.Option(help="Name in tables. Default: the run's, without -seedN.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Default: the run's, else 0.")] = None,
    normalizer: Annotated[
        str, typer.Option(help="What texts are compared in: otreg, whisper or basic (Whisper's).")
    ] = "otreg",
    spelling_map: Annotated[
        Path | None,
        typer.Option(help="With --normalizer whisper: normalizer.json of a Whisper checkpoint."),
    ] = None,
    batch_size: BatchSize = 16,
    max_new_tokens: MaxTokens = 200,
    root: Root = None,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Decode named corpora with a model; write error rates and modality-gap measures as JSON.

    Corpora that no --in-domain names count as out of domain.
    """
    corpora = _corpora(data)
    unknown = sorted(set(in_domain or []) - set(corpora))
    if unknown:
        raise ValueError(
            f"--in-domain {unknown[0]} names none of the corpora; they are {', '.join(corpora)}"
        )
    from otreg.evaluation.normalizers import find_normalizer
    from otreg.model.loading import place_of

    compared = find_normalizer(normalizer, spelling_map=spelling_map)
    if out is None and isinstance(place_of(run), str):
        raise ValueError(f"{run} is a Hub id; name the file of results by --out")
    out = out or run / "results.json"
    model, processor = load(run, device, trust_remote_code)
    facts = _run_facts(run)
    own = facts.pop("seed", 0)
    seed = own if seed is None else seed
    arm = arm or run.absolute().name.removesuffix(f"-seed{seed}")
    from otreg.data.sources import read_source
    from otreg.evaluation.evaluate import evaluate_model
    from otreg.evaluation.results import environment, write_results

    results = evaluate_model(
        model,
        processor,
        {name: read_source(source, root=root) for name, source in corpora.items()},
        arm=arm,
        seed=seed,
        in_domain=in_domain or [],
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        normalizer=compared,
        progress=True,
    )
    curves = [{"arm": arm, "seed": seed, **entry} for entry in facts.pop("curves", [])]
    command = command_line("evaluate", context.params)
    results |= environment() | facts | {"curves": curves, "command": command}
    write_results(results, out)
    from otreg.cli.tables import print_rows

    print_rows(results)
    typer.echo(f"results: {out}")


@app.command(epilog="Example: otreg align runs/digits test.jsonl --out plans --limit 5")
def align(
    run: Run,
    manifest: Annotated[Path, typer.Argument(help="Speech with transcripts (JSONL).")],
    out: Annotated[Path, typer.Option(help="Folder for the plots and numbers.")],
    limit: Annotated[int, typer.Option(min=1, help="Utterances, from the first on.")] = 20,
    root: Root = None,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Plot how speech aligns with its transcript: the transport plan and the distances over time.

    Writes, for each utterance, ID.json, ID.plan.png and ID.distances.png.
    """
    import numpy as np

    from otreg.data.manifest import read_manifest
    from otreg.evaluation import plots
    from otreg.evaluation.evaluate import align as compute

    utterances = read_manifest(manifest, root=root)[:limit]
    model, processor = load(run, device, trust_remote_code)
    out.mkdir(parents=True, exist_ok=True)
    names: set[str] = set()
    for record in compute(model, processor, utterances):
        name = _file_name(record["id"], names)
        (out / f"{name}.json").write_text(
            json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        title = record["text"]
        plan = plots.plot_transport_plan(
            np.array(record["plan"]), record["targets"], record["frame_s"], title=title
        )
        distances = plots.plot_distances(
            np.array(record["distances"]), record["tokens"], record["frame_s"], title=title
        )
        plots.save_png(plan, out / f"{name}.plan.png")
        plots.save_png(distances, out / f"{name}.distances.png")
    typer.echo(f"{len(names)} utterances: {out}")


@app.command(epilog="Example: otreg report runs/base runs/otreg --out report.html")
def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders or results.json files.")
    ],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    base: Annotated[
        str | None, typer.Option(help="The arm to compare with. Default: base, if there is one.")
    ] = None,
) -> None:
    """Join the results of runs into one HTML page that needs no network to view.

    Each RUN has been through otreg evaluate, which left its results.json there.
    """
    from otreg.cli.tables import print_arms, print_gate_measures, print_gates
    from otreg.evaluation.report import write_report
    from otreg.evaluation.results import merge_results, read_results

    results = merge_results([read_results(path) for path in runs])
    if base is not None:
        arms = sorted({row["arm"] for row in results["rows"]})
        if base not in arms:
            raise ValueError(f"--base {base} names none of the arms; they are {', '.join(arms)}")
        results = {**results, "base_arm": base}
    write_report(results, out)
    print_arms(results)
    print_gate_measures(results)
    print_gates(results)
    typer.echo(f"report: {out}")


def load(run: Path, device: str | None, trust_remote_code: bool) -> tuple[Any, Any]:
    """The model of a run on the device asked for, and its processor."""
    from otreg.integrations.loading import load_speech_lm

    quiet_transformers()
    import torch

    model, processor = load_speech_lm(run, trust_remote_code=trust_remote_code)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model.to(torch.device(device))  # type: ignore[arg-type]
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {device} cannot be used: {error}") from error
    return model, processor


def _corpora(data: list[str]) -> dict[str, Any]:
    """NAME=MANIFEST options as a mapping; every manifest is there, what a YAML file says is checked."""
    corpora: dict[str, Any] = {}
    for item in data:
        name, equals, text = item.partition("=")
        path = Path(text if equals else item)
        if not equals:
            name = path.parent.resolve().name if path.stem == "manifest" else path.stem
        if not name or not str(path).strip("."):
            raise ValueError(f"--data {item!r}: expected NAME=MANIFEST, such as test=test.jsonl")
        if not path.is_file():
            raise ValueError(f"--data {item}: no such manifest: {str(path)!r}")
        if name in corpora:
            raise ValueError(f"--data {item}: the name {name!r} stands twice; name corpora apart")
        corpora[name] = _source(path) if path.suffix in (".yaml", ".yml") else path
    return corpora


def _source(path: Path) -> Any:
    """What a YAML file says of where data is."""
    from otreg.data.sources import check_source
    from otreg.training.yaml_config import parse_yaml

    source = parse_yaml(path.read_text(encoding="utf-8"), source=str(path))
    try:
        check_source(source)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return source


def _run_facts(run: Path) -> dict[str, Any]:
    """Seed, configuration and training curves of a run; nothing for a mere model folder."""
    from otreg.evaluation.curves import read_curves
    from otreg.training.config import config_to_dict, load_config
    from otreg.training.run_folder import RunFolder

    folder = RunFolder(run)
    if not folder.config.is_file():
        return {}
    config = config_to_dict(load_config(folder.config))
    return {"config": config, "seed": config["seed"], "curves": read_curves(folder.log)}


def _file_name(identity: str, taken: set[str]) -> str:
    """A file name for an utterance's id, unlike those taken."""
    plain = re.sub(r"[^\w.-]+", "_", identity).strip(".") or "utterance"
    name, number = plain, 2
    while name in taken:
        name, number = f"{plain}-{number}", number + 1
    taken.add(name)
    return name
