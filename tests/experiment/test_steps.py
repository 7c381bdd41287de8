"""Training as a step: what a killed call left is gone on from, or done anew."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from tiny_run import run_config, save_corpus, save_towers, stage

from otreg.evaluation.results import read_results
from otreg.experiment.graph import Call
from otreg.experiment.plan import unit_config, units
from otreg.experiment.steps import evaluate, make_stages
from otreg.training import trainer as trainer_module
from otreg.training.config import config_from_dict, config_to_dict
from otreg.training.stages import train


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("places")
    audio_tower, language_model = save_towers(root)
    names = ("audio_tower", "language_model", "train 0")
    return dict(zip(names, (audio_tower, language_model, save_corpus(root / "data")), strict=True))


def call_of(places: dict[str, Path], folder: Path, **trainer: Any) -> Call:
    options = {"logging_steps": 1, "use_cpu": True, **trainer}
    data = run_config(("audio", "lm"), "train", [stage(steps=4, trainer=options)])
    run = config_to_dict(config_from_dict(data))
    for name in ("audio_tower", "language_model", "init"):
        del run["model"][name]
    for name in ("train", "validation", "root", "cache_dir"):
        del run["data"][name]
    return Call({"run": run}, places, folder, folder.parent)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    ours, theirs = weights(one), weights(other)
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.fixture(scope="module")
def whole(places: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    made = make_stages(call_of(places, folder))
    assert made == {"model": folder / "model", "log": folder / "log.jsonl"}
    return folder


def evaluated(places: dict[str, Path], run: Path, out: Path) -> Path:
    settings = {
        "arm": "a",
        "seed": 0,
        "corpora": ["tones"],
        "in_domain": [],
        "measures": {},
        "sample_measures": ["wer"],
        "options": {"batch_size": 8, "max_new_tokens": 2},
    }
    inputs = {"model": run / "model", "language_model": places["language_model"]}
    inputs |= {"log 0": run / "log.jsonl", "corpus tones": places["train 0"]}
    return evaluate(Call(settings, inputs, out, out.parent))["results"]


class Killed(BaseException):
    """Not an Exception: nothing of ours may catch it."""


@pytest.mark.parametrize("save_steps", [2, 500])
def test_a_killed_training_is_gone_on_from_or_started_again(
    places: dict[str, Path],
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    save_steps: int,
) -> None:
    call = call_of(places, tmp_path / "run", save_steps=save_steps)
    step = trainer_module.SpeechLMTrainer.training_step
    count = 0

    def killed(self: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count == 4:
            raise Killed
        return step(self, *arguments, **options)

    monkeypatch.setattr(trainer_module.SpeechLMTrainer, "training_step", killed)
    with pytest.raises(Killed):
        make_stages(call)
    assert not (tmp_path / "run" / "model").exists()
    make_stages(call)
    steps_after = count - 4
    assert steps_after == (2 if save_steps == 2 else 4)
    assert same(tmp_path / "run", whole)
    log = tmp_path / "run" / "log.jsonl"
    entries = map(json.loads, log.read_text().splitlines())
    logged = [entry["step"] for entry in entries if "loss" in entry]
    assert logged == ([1, 2, 3, 3, 4] if save_steps == 2 else [1, 2, 3, 1, 2, 3, 4])
    curves = read_results(evaluated(places, tmp_path / "run", tmp_path / "out"))["curves"]
    assert [record["step"] for record in curves] == [1, 2, 3, 4]


def test_an_unfinished_line_of_the_log_and_numbers_that_are_none_are_left_out(
    places: dict[str, Path], whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    with (run / "log.jsonl").open("a") as log:
        log.write('{"stage": "x", "step": 1, "loss": 2.0, "grad_norm": NaN}\n{"stage": "x", "st')
    curves = read_results(evaluated(places, run, tmp_path / "out"))["curves"]
    assert curves[-1] == {"arm": "a", "seed": 0, "stage": "x", "step": 1, "loss": 2.0}


def test_a_torn_checkpoint_starts_the_training_again(
    places: dict[str, Path], whole: Path, tmp_path: Path
) -> None:
    call = call_of(places, tmp_path / "run", save_steps=2)
    make_stages(call)
    (tmp_path / "run" / "model").rename(tmp_path / "model")
    for file in (tmp_path / "run").glob("stage-*/checkpoint-*/*.safetensors"):
        file.write_bytes(b"torn")
    make_stages(call)
    assert same(tmp_path / "run", whole)


def test_a_folder_with_leftovers_of_something_else_is_cleared(
    places: dict[str, Path], whole: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "leftover").touch()
    make_stages(call_of(places, tmp_path / "run"))
    assert same(tmp_path / "run", whole)
    assert not (tmp_path / "run" / "leftover").exists()


def test_stages_one_by_one_are_the_same_as_in_one_run(
    places: dict[str, Path], tmp_path: Path
) -> None:
    stages = [
        stage("one"),
        stage("two", model={"snap": 0.3}),
        stage("three", train=["adapter", "lora"]),
        stage("four"),
    ]
    towers = (places["audio_tower"], places["language_model"])
    data = run_config(towers, places["train 0"], stages, lora={"r": 2}, snap=0.5)
    config = config_from_dict(data)
    train(config, tmp_path / "whole", quiet=True)
    before: Path | None = None
    for number, unit in enumerate(units(config.stages)):
        run = unit_config(config, unit, config.seed, is_first=before is None)
        inputs = {"train 0": places["train 0"]}
        inputs |= places if before is None else {"init": before / "model"}
        folder = tmp_path / f"unit{number}"
        make_stages(Call({"run": run}, inputs, folder, tmp_path))
        before = folder
    assert number == 2
    assert before is not None
    assert same(before, tmp_path / "whole")
