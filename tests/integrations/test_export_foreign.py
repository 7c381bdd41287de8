"""A model of others that otreg trained, exported: a stock checkpoint of its family, with our card."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import soundfile
import torch
from families.base import TEXTS, waveforms
from families_at_hand import ALL
from huggingface_hub import ModelCard

from otreg.cli import main
from otreg.data.manifest import Utterance, write_manifest
from otreg.export.folder import export_model
from otreg.export.push import push_folder
from otreg.integrations import load


def test_a_trained_model_of_others_is_exported_as_its_family_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "start").mkdir()
    ALL["qwen2_audio"].save(tmp_path / "start")
    rows = []
    for number, sound in enumerate(waveforms(0.9, 0.7)):
        soundfile.write(tmp_path / f"{number}.wav", sound, 16_000)
        rows.append(Utterance(str(number), tmp_path / f"{number}.wav", TEXTS[number], "es"))
    write_manifest(tmp_path / "train.jsonl", rows)
    recipe = {
        "model": {"init": str(tmp_path / "start"), "lora": {"r": 2}},
        "data": {"train": [str(tmp_path / "train.jsonl")]},
        "stages": [
            {
                "name": "both",
                "train": ["adapter", "lora"],
                "objectives": {"otreg": {"weight": 0.3}},
                "steps": 1,
                "batch_size": 2,
                "learning_rate": 1e-2,
                "trainer": {"use_cpu": True},
            }
        ],
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    run, out = tmp_path / "mine", tmp_path / "out"
    assert main(["train", str(tmp_path / "recipe.yaml"), "--out", str(run), "--quiet"]) == 0
    assert main(["export", str(run), "--out", str(out), "--license", "apache-2.0"]) == 0
    names = {path.name for path in out.iterdir()}
    assert not {name for name in names if name.endswith(".py")}
    assert "auto_map" not in json.loads((out / "config.json").read_text())
    assert str(tmp_path) not in (out / "config.json").read_text()
    card = ModelCard.load(out / "README.md")
    assert card.data.license == "apache-2.0"
    assert "Qwen2AudioForConditionalGeneration.from_pretrained" in card.text
    assert "family qwen2_audio" in card.text
    assert "| train" in card.text
    assert (out / "otreg_request.json").is_file()
    trained, _ = load(run / "model")
    exported, processor = load(out)
    assert processor.tokenizer is not None
    theirs = dict(trained.named_parameters())
    for name, parameter in exported.named_parameters():
        assert torch.equal(parameter, theirs[name]), name
    with pytest.raises(ValueError, match="not empty"):
        export_model(run, out)
    assert "otreg's, under Apache-2.0" not in card.text  # no code of ours is in it
    uploaded = {}

    class Api:
        def create_repo(self, repo_id: str, **options: Any) -> None:
            uploaded["repo"] = repo_id

        def upload_folder(self, **options: Any) -> Any:
            uploaded["files"] = options["allow_patterns"]
            return SimpleNamespace(commit_url="https://hub/commit")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert push_folder(out, "me/mine") == "https://hub/commit"
    assert {"model.safetensors", "otreg_request.json", "README.md"} <= set(uploaded["files"])
