"""Pushing: only the model's own files, only with a licence; the Hub is a stand-in."""

import types

import huggingface_hub
import pytest

from otreg.cli import main
from otreg.export import export_model, push_folder


class Hub:
    """Stands for huggingface_hub.HfApi and keeps what it was asked for."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        def call(*arguments, **options):
            self.calls.append((name, arguments, options))
            return types.SimpleNamespace(commit_url="https://hub/commit/1")

        return call


@pytest.fixture
def hub(monkeypatch):
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    return hub


def test_a_push_makes_the_repository_and_uploads_the_folder(run, tmp_path, hub, capsys):
    out = tmp_path / "out"
    options = ["--license", "mit", "--push", "me/model", "--private"]
    assert main(["export", str(run), "--out", str(out), *options]) == 0
    (made, named, how), (uploaded, _, what) = hub.calls
    assert (made, named) == ("create_repo", ("me/model",))
    assert how == {"repo_type": "model", "private": True, "exist_ok": True}
    assert uploaded == "upload_folder"
    assert (what["repo_id"], what["folder_path"]) == ("me/model", out)
    files = {path.name for path in out.iterdir()}
    assert set(what["allow_patterns"]) == files
    assert {"README.md", "model.safetensors", "config.json", "otreg_speech_lm.py"} <= files
    assert "pushed: https://hub/commit/1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["optimizer.pt", "clip.wav", "train.jsonl", "sub/trainer_state.json"]
)
def test_what_is_no_part_of_a_model_is_never_pushed(run, tmp_path, hub, name):
    out = export_model(run, tmp_path / "out", licence="mit")
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("x")
    with pytest.raises(ValueError, match=rf"holds {name}, which is no part of a model"):
        push_folder(out, "me/model")
    assert hub.calls == []


def test_a_card_without_a_licence_is_not_pushed(run, tmp_path, hub):
    out = export_model(run, tmp_path / "out")
    with pytest.raises(ValueError, match="expected a licence for a model that is pushed"):
        push_folder(out, "me/model")
    assert hub.calls == []


def test_another_folder_is_not_pushed(run, hub):
    with pytest.raises(ValueError, match="expected a folder that otreg export wrote"):
        push_folder(run, "me/model")
    assert hub.calls == []
