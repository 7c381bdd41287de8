"""The command line: every command on a tiny run, and one clear line for every mistake."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent / "training"))

from tiny_run import run_config, save_corpus, save_towers, stage

from otreg.cli import main

COMMANDS = (
    *("demo", "miniature", "prepare", "train", "evaluate", "transcribe", "align", "report"),
    *("export", "serve"),
)
OTREG = Path(sys.executable).with_name("otreg")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with towers, two manifests, a recipe, and a trained run with its results."""
    root = tmp_path_factory.mktemp("cli")
    towers = save_towers(root / "towers")
    train = save_corpus(root / "train")
    save_corpus(root / "test", num_utterances=3, seed=1)
    config = run_config(towers, train, [stage("align", objectives={"otreg": {"weight": 0.3}})])
    config["data"]["train"] = []
    (root / "recipe.yaml").write_text(yaml.safe_dump(config))
    run = root / "runs" / "mine-seed5"
    manifest = f"data.train={train}"
    assert main(["train", str(root / "recipe.yaml"), manifest, "seed=5", "--out", str(run)]) == 0
    return root


@pytest.fixture(scope="module")
def evaluated(place: Path) -> Path:
    run = place / "runs" / "mine-seed5"
    data = [f"--data=heard={place / 'train/manifest.jsonl'}"]
    data += ["--data", f"unheard={place / 'test/manifest.jsonl'}", "--in-domain", "heard"]
    assert main(["evaluate", str(run), *data, "--max-new-tokens", "5"]) == 0
    return run


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run what must fail with exit code 2; return its one line on stderr."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("otreg: error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    assert f"Example: otreg {command}" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_a_flag_stands_alone_in_the_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"] if command else ["--help"]) == 0
    shown = capsys.readouterr().out
    assert "--help" in shown
    assert "<bool>" not in shown
    assert "BOOLEAN" not in shown


def test_the_installed_command_lists_every_command() -> None:
    done = subprocess.run([OTREG, "--help"], capture_output=True, text=True, check=True)
    assert all(command in done.stdout for command in COMMANDS)
    assert done.stderr == ""


def test_a_mistake_ends_the_installed_command_with_2_and_one_line(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("sede: 1\nstages: []\n")
    command = [OTREG, "train", recipe, "--out", tmp_path / "run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"otreg: error: .*unknown key 'sede': did you mean 'seed'.*\n", done.stderr)


def test_help_needs_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from otreg.cli import main; main(['train', '--help']); "
        "sys.exit([m for m in ('torch', 'transformers', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == "[]"


def test_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"otreg \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_train_leaves_a_run_that_says_what_it_was(place: Path) -> None:
    run = place / "runs" / "mine-seed5"
    assert yaml.safe_load((run / "config.yaml").read_text())["seed"] == 5
    assert (run / "model" / "model.safetensors").is_file()


def test_an_interrupted_run_is_resumed_to_the_same_model(place: Path, tmp_path: Path) -> None:
    recipe, data = str(place / "recipe.yaml"), f"data.train={place / 'train/manifest.jsonl'}"
    every_step = "stages.align.trainer={save_steps: 1}"
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    arguments = ["train", recipe, data, "seed=5", every_step, "--out"]
    assert main([*arguments, str(whole)]) == 0
    shutil.copytree(whole, broken)
    shutil.rmtree(broken / "model")
    newest = max(broken.rglob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    assert newest.name == "checkpoint-2"
    shutil.rmtree(newest)
    assert main([*arguments, str(broken), "--resume"]) == 0
    saved = [folder / "model" / "model.safetensors" for folder in (whole, broken)]
    assert saved[0].read_bytes() == saved[1].read_bytes()


def test_evaluate_writes_rows_gap_and_the_runs_facts(evaluated: Path) -> None:
    results = json.loads((evaluated / "results.json").read_text())
    rows = {row["corpus"]: row for row in results["rows"]}
    assert {name: row["domain"] for name, row in rows.items()} == {"heard": "in", "unheard": "out"}
    assert rows["unheard"]["num_utterances"] == 3
    assert {(row["arm"], row["seed"]) for row in results["rows"]} == {("mine", 5)}
    gap = {"arm", "seed", "corpus", "coverage", "nearest_token", "centroid_distance", "collapse"}
    assert all(gap <= record.keys() for record in results["gap"])
    assert results["config"]["stages"][0]["objectives"]["otreg"]["weight"] == 0.3
    assert results["versions"]["torch"]
    options = ["--in-domain heard", "--max-new-tokens 5", "--data unheard="]
    assert all(option in results["command"] for option in options)
    assert [sample["measure"] for sample in results["samples"]] == ["wer", "wer"]
    assert [(c["stage"], c["step"], "otreg" in c) for c in results["curves"]] == [
        ("align", 1, True),
        ("align", 2, True),
    ]


def test_evaluate_takes_a_model_folder_and_unnamed_corpora(
    place: Path, evaluated: Path, tmp_path: Path
) -> None:
    shutil.copy(place / "test/manifest.jsonl", place / "test/other.jsonl")
    data = ["--data", str(place / "test/manifest.jsonl"), "--data", str(place / "test/other.jsonl")]
    out = tmp_path / "deep" / "results.json"
    arguments = [
        str(evaluated / "model"),
        *data,
        "--arm",
        "plain",
        "--seed",
        "3",
        "--out",
        str(out),
    ]
    assert main(["evaluate", *arguments, "--max-new-tokens", "3"]) == 0
    results = json.loads(out.read_text())
    assert [row["corpus"] for row in results["rows"]] == ["test", "other"]
    assert {(row["arm"], row["seed"], row["domain"]) for row in results["rows"]} == {
        ("plain", 3, "out")
    }


def test_a_seed_that_is_given_takes_the_place_of_the_runs_own(
    place: Path, evaluated: Path, tmp_path: Path
) -> None:
    data = ["--data", str(place / "test/manifest.jsonl"), "--max-new-tokens", "3"]
    out = tmp_path / "results.json"
    assert main(["evaluate", str(evaluated), *data, "--seed", "4", "--out", str(out)]) == 0
    results = json.loads(out.read_text())
    assert {row["seed"] for row in results["rows"] + results["curves"]} == {4}
    assert "seed" not in results


def test_transcribe_writes_one_line_for_each_file(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audio = [str(place / "test" / name) for name in ("u0.wav", "u1.wav", "u0.wav")]
    capsys.readouterr()
    run = str(place / "runs" / "mine-seed5")
    assert main(["transcribe", run, *audio, "--max-new-tokens", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == audio
    assert lines[0] == lines[2]
    options = ["--max-new-tokens", "4", "--batch-size", "1", "--language", "en"]
    assert main(["transcribe", run, *audio, *options]) == 0
    assert capsys.readouterr().out.splitlines() == lines


def test_align_writes_plots_and_numbers(place: Path, tmp_path: Path) -> None:
    run, manifest = place / "runs" / "mine-seed5", place / "test" / "manifest.jsonl"
    assert main(["align", str(run), str(manifest), "--out", str(tmp_path), "--limit", "2"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"u{i}.{kind}" for i in (0, 1) for kind in ("distances.png", "json", "plan.png")
    ]
    record = json.loads((tmp_path / "u0.json").read_text())
    assert len(record["plan"][0]) == len(record["targets"])
    assert sum(sum(row) for row in record["plan"]) == pytest.approx(1, abs=0.01)
    assert (tmp_path / "u0.plan.png").read_bytes().startswith(b"\x89PNG")


def test_report_joins_runs_into_one_page(evaluated: Path, tmp_path: Path) -> None:
    other = json.loads((evaluated / "results.json").read_text())
    for name in ("rows", "gap", "transcripts", "alignments", "curves"):
        other[name] = [record | {"arm": "other"} for record in other[name]]
    (tmp_path / "other.json").write_text(json.dumps(other))
    page = tmp_path / "report.html"
    arguments = [str(evaluated), str(tmp_path / "other.json"), "--out", str(page)]
    assert main(["report", *arguments, "--base", "other"]) == 0
    html = page.read_text()
    assert "mine" in html
    assert "other" in html


def test_demo_and_miniature_call_what_they_name(
    monkeypatch: pytest.MonkeyPatch, place: Path, tmp_path: Path, evaluated: Path
) -> None:
    import otreg.experiment.runner
    import otreg.synthetic.towers

    calls: list[Any] = []
    results = json.loads((evaluated / "results.json").read_text())
    monkeypatch.setattr(
        otreg.experiment.runner,
        "run_experiment",
        lambda experiment, out, **options: calls.append((out, options)) or results,
    )
    monkeypatch.setattr(
        otreg.synthetic.towers,
        "build_miniature",
        lambda manifests, out, **options: calls.append((manifests, out, options)) or out,
    )
    assert main(["demo", "--out", str(tmp_path), "--seeds", "2", "--arms", "base, otreg"]) == 0
    out, options = calls.pop()
    assert (out, options["seeds"], options["arms"]) == (tmp_path, 2, ["base", "otreg"])
    assert options["command"] == f"otreg demo --out {tmp_path} --seeds 2 --arms 'base, otreg'"
    manifest = place / "train" / "manifest.jsonl"
    command = ["miniature", str(manifest), "--out", str(tmp_path), "--seed", "4"]
    (tmp_path / "more.txt").write_text("one two\n")
    more = tmp_path / "more.txt"
    assert main([*command, "--units", "phonemes", "--text", str(more)]) == 0
    settings = otreg.synthetic.towers.MiniatureSettings(units="phonemes")
    ((given, out, options),) = calls
    assert (given, out, options.pop("progress") is not None) == ([manifest], tmp_path, True)
    assert options == {"root": None, "texts": [more], "seed": 4, "settings": settings}
    assert main([*command, "--units", "letters"]) == 2


MISTAKES = {
    "no such command": (["trian"], "No such command 'trian'"),
    "missing argument": (["transcribe"], "Missing argument.*see otreg transcribe --help"),
    "unknown option": (["train", "{recipe}", "--ouch", "x"], "No such option.*--ouch"),
    "no --out": (["train", "{recipe}"], "Missing option '--out'"),
    "no recipe": (["train", "none.yaml", "--out", "{tmp}/r"], "no such configuration file"),
    "unknown key": (["train", "{recipe}", "sede=1", "--out", "{tmp}/r"], "did you mean 'seed'"),
    "no data": (["train", "{recipe}", "--out", "{tmp}/r"], "data.train is missing"),
    "no manifest": (
        ["train", "{recipe}", "data.train=no.jsonl", "--out", "{tmp}/r"],
        "no such manifest: 'no.jsonl'",
    ),
    "bad manifest": (
        ["train", "{recipe}", "data.train={bad}", "--out", "{tmp}/r"],
        r"bad\.jsonl.*1",
    ),
    "no tower": (
        ["train", "{recipe}", "data.train={good}", "model.audio_tower={tmp}/x", "--out", "{tmp}/r"],
        r"model\.audio_tower: no such folder",
    ),
    "a full folder": (["train", "{recipe}", "data.train={good}", "--out", "{run}"], "not empty"),
    "no run": (["evaluate", "{tmp}/x", "--data", "a={good}"], "no such run or model folder"),
    "not a run": (["evaluate", "{tmp}", "--data", "a={good}"], "neither a run nor a model folder"),
    "no corpus": (["evaluate", "{run}", "--data", "a=no.jsonl"], "no such manifest"),
    "no name": (["evaluate", "{run}", "--data", "={good}"], "expected NAME=MANIFEST"),
    "one name twice": (
        ["evaluate", "{run}", "--data", "a={good}", "--data", "a={good}"],
        "'a' stands twice",
    ),
    "unknown domain": (
        ["evaluate", "{run}", "--data", "a={good}", "--in-domain", "b"],
        "--in-domain b names none of the corpora",
    ),
    "no such device": (
        ["evaluate", "{run}", "--data", "a={good}", "--device", "gpu7"],
        "--device gpu7 cannot be used",
    ),
    "no audio": (["transcribe", "{run}", "no.wav"], "no such sound file: 'no.wav'"),
    "audio that is none": (["transcribe", "{run}", "{bad}"], r"bad\.jsonl"),
    "no manifest to align": (["align", "{run}", "no.jsonl", "--out", "{tmp}/o"], r"no\.jsonl"),
    "no results": (["report", "{tmp}", "--out", "{tmp}/r.html"], "results.json"),
    "no manifest for towers": (["miniature", "no.jsonl", "--out", "{tmp}/t"], "no such file"),
    "seeds below one": (["demo", "--seeds", "0", "--out", "{tmp}/d"], "--seeds"),
    "unknown arm": (["demo", "--arms", "bsae", "--out", "{tmp}/d"], "did you mean 'base'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_line(
    mistake: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = MISTAKES[mistake]
    (tmp_path / "bad.jsonl").write_text('{"id": "a", "audio": 3}\n')
    names = {
        "recipe": place / "recipe.yaml",
        "good": place / "test" / "manifest.jsonl",
        "bad": tmp_path / "bad.jsonl",
        "run": place / "runs" / "mine-seed5",
        "tmp": tmp_path,
    }
    filled = [argument.format(**names) for argument in arguments]
    assert re.search(message, fails(capsys, *filled))


def test_debug_shows_where_an_error_came_from(tmp_path: Path) -> None:
    from otreg.training.config import ConfigError

    with pytest.raises(ConfigError):
        main(["--debug", "train", str(tmp_path / "none.yaml"), "--out", str(tmp_path / "run")])


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    import otreg.training.config

    def broken(*_: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(otreg.training.config, "load_config", broken)
    with pytest.raises(KeyError):
        main(["train", str(place / "recipe.yaml"), "--out", "x"])


def test_what_is_not_finite_ends_with_1(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [f"data.train={place / 'train/manifest.jsonl'}", "stages.0.learning_rate=1e30"]
    overrides += ["stages.0.steps=6", "stages.0.warmup_fraction=0", "stages.0.max_grad_norm=0"]
    recipe = str(place / "recipe.yaml")
    assert main(["train", recipe, *overrides, "--out", str(tmp_path / "r"), "--quiet"]) == 1
    err = capsys.readouterr().err
    assert re.search(r"otreg: error: .*not finite at step \d, utterances u", err)


@pytest.mark.parametrize("name", ["paper", "digits"])
def test_the_recipes_are_valid_and_otreg_can_be_switched_off(name: str) -> None:
    from otreg.training import load_config

    path = Path(__file__).parents[1] / "configs" / f"{name}.yaml"
    with_otreg = load_config(path)
    base = load_config(path, ["stages.1.objectives.otreg.weight=0"])
    assert "otreg" in with_otreg.stages[1].active()
    assert "otreg" not in base.stages[1].active()


@pytest.mark.parametrize("name", ["paper", "digits"])
def test_the_recipes_train_on_towers_of_ones_own(
    name: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [
        f"model.audio_tower={place / 'towers/audio_tower'}",
        f"model.language_model={place / 'towers/language_model'}",
        f"data.train={place / 'train/manifest.jsonl'}",
    ]
    for index in (0, 1):
        overrides += [
            f"stages.{index}.{change}"
            for change in ("steps=1", "epochs=null", "batch_size=2", "trainer.use_cpu=true")
        ]
        if name == "paper":
            overrides.append(f"stages.{index}.trainer.dataloader_num_workers=0")
    recipe = Path(__file__).parents[1] / "configs" / f"{name}.yaml"
    out = tmp_path / "run"
    assert main(["train", str(recipe), *overrides, "--out", str(out), "--quiet"]) == 0
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert ["otreg" in entry for entry in entries if "ce" in entry] == [name == "digits", True]
    assert f"model: {out / 'model'}\nnext:  otreg evaluate {out} " in capsys.readouterr().out


def test_a_root_lets_manifests_reach_audio_beside_their_folder(place: Path, tmp_path: Path) -> None:
    """The folder of the manifest does not hold the audio; --root names one that holds both."""
    manifest = place / "lists" / "test.jsonl"
    manifest.parent.mkdir(exist_ok=True)
    lines = (place / "test" / "manifest.jsonl").read_text().replace('"audio": "', '"audio": "test/')
    manifest.write_text(lines)
    run, out = place / "runs" / "mine-seed5", tmp_path / "results.json"
    command = ["evaluate", str(run), "--data", f"there={manifest}", "--out", str(out)]
    assert main([*command, "--max-new-tokens", "3"]) == 2
    assert main([*command, "--max-new-tokens", "3", "--root", str(place)]) == 0
    assert f"--root {place}" in json.loads(out.read_text())["command"].replace("=", " ")
