"""Manifests beside their audio: the root reaches every command and the configuration."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent / "training"))

from tiny_run import run_config, save_corpus, save_towers, stage

from otreg.cli import main
from otreg.synthetic import towers as towers_module


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Audio in audio/, its manifest in lists/, a recipe, and a run that was trained on it."""
    place = tmp_path_factory.mktemp("root")
    rows = save_corpus(place / "audio", num_utterances=4).read_text().splitlines()
    (place / "lists").mkdir()
    with open(place / "lists" / "all.jsonl", "w") as manifest:
        for row in map(json.loads, rows):
            row["audio"] = f"audio/{row['audio']}"
            manifest.write(json.dumps(row) + "\n")
    config = run_config(save_towers(place / "towers"), place / "lists" / "all.jsonl", [stage()])
    config["data"]["validation"] = config["data"]["train"]
    (place / "recipe.yaml").write_text(yaml.safe_dump(config))
    command = ["train", str(place / "recipe.yaml"), "--out", str(place / "run")]
    assert main([*command, f"data.root={place}"]) == 0
    return place


def commands(place: Path, out: Path) -> dict[str, list[str]]:
    manifest, run = str(place / "lists" / "all.jsonl"), str(place / "run")
    return {
        "evaluate": ["evaluate", run, "--data", f"a={manifest}", "--out", str(out / "r.json")],
        "align": ["align", run, manifest, "--out", str(out / "plans"), "--limit", "1"],
        "miniature": ["miniature", manifest, "--out", str(out / "towers")],
        "train": ["train", str(place / "recipe.yaml"), "--out", str(out / "run")],
    }


@pytest.mark.parametrize("command", ["evaluate", "align", "miniature", "train"])
def test_without_the_root_the_error_names_the_option(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    rows = (place / "lists" / "all.jsonl").read_text()
    outside = place / "lists" / "outside.jsonl"
    outside.write_text(rows.replace("audio/", "../audio/"))
    arguments = [
        part.replace("all.jsonl", "outside.jsonl") for part in commands(place, tmp_path)[command]
    ]
    if command == "train":
        arguments += [f"data.train={outside}"]
    assert main(arguments) == 2
    option = re.escape("--root FOLDER on the command line, data.root in a configuration")
    assert re.search(rf"outside\.jsonl:1: .*leads out of .*{option}", capsys.readouterr().err)


def test_the_root_reaches_align(place: Path, tmp_path: Path) -> None:
    assert main([*commands(place, tmp_path)["align"], "--root", str(place)]) == 0
    assert (tmp_path / "plans" / "u0.json").is_file()


def test_the_root_reaches_the_miniature(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: dict[str, tuple] = {}
    monkeypatch.setattr(towers_module, "_train_side_by_side", lambda made, _: jobs.update(made))
    assert main([*commands(place, tmp_path)["miniature"], "--root", str(place)]) == 0
    spoken = jobs["audio_tower"][0]
    assert [row.audio for row in spoken] == [place / "audio" / f"u{i}.wav" for i in range(4)]
