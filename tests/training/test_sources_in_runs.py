"""Data of other kinds in a run's configuration and on the command line."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))

from source_kinds import write_audiofolder, write_kaldi, write_shards
from tiny_run import run_config, save_corpus, save_towers, stage

from otreg.cli import main
from otreg.data import AudioError, SpeechTextStream, open_stream, read_manifest
from otreg.data.augment import Augmentation
from otreg.training import ConfigError, config_from_dict, load_config, stages, train
from otreg.training.config import save_config
from otreg.training.trainer import SpeechLMTrainer


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Towers, and one corpus as a manifest, a Kaldi folder and tar shards."""
    place = tmp_path_factory.mktemp("kinds")
    save_towers(place / "towers")
    utterances = read_manifest(save_corpus(place / "corpus"))
    write_kaldi(place / "kaldi", [_spoken(u) for u in utterances])
    write_shards(place / "shards", utterances, per_shard=3)
    write_audiofolder(place / "audiofolder", utterances)
    return place


def _spoken(utterance: Any) -> Any:
    from dataclasses import replace

    return replace(utterance, speaker="s")


def config(place: Path, train_data: Any, **changes: Any) -> dict[str, Any]:
    towers = (place / "towers" / "audio_tower", place / "towers" / "language_model")
    data = run_config(towers, place / "corpus" / "manifest.jsonl", [stage(**changes)])
    return data | {"data": {"train": train_data}}


def sources(place: Path) -> dict[str, Any]:
    shards = {"type": "webdataset", "path": str(place / "shards")}
    return {
        "manifest": str(place / "corpus" / "manifest.jsonl"),
        "kaldi": {"type": "kaldi", "path": str(place / "kaldi"), "root": str(place)},
        "shards": shards,
        "stream": shards | {"streaming": True},
        "audiofolder": {"type": "huggingface", "path": str(place / "audiofolder")},
    }


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


def test_a_run_on_any_kind_ends_in_the_same_weights(place: Path, tmp_path: Path) -> None:
    found = {}
    for kind in ("manifest", "kaldi", "shards"):
        run = config_from_dict(config(place, sources(place)[kind]))
        found[kind] = weights(train(run, tmp_path / kind, quiet=True))
    assert found["manifest"]
    for kind in ("kaldi", "shards"):
        for name, value in found["manifest"].items():
            assert torch.equal(value, found[kind][name]), (kind, name)


def test_the_encoder_cache_takes_members_of_shards(place: Path, tmp_path: Path) -> None:
    data = config(place, sources(place)["shards"])
    data["data"] |= {"cache_encoder": True, "validation": [sources(place)["audiofolder"]]}
    train(config_from_dict(data), tmp_path / "run", quiet=True)
    assert list((tmp_path / "run" / "encoder-cache").glob("*/states-*.safetensors"))


def test_the_saved_configuration_of_a_source_reads_back_equal(place: Path, tmp_path: Path) -> None:
    run = config_from_dict(config(place, [sources(place)["kaldi"], sources(place)["manifest"]]))
    save_config(run, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == run
    changed = load_config(tmp_path / "config.yaml", ["data.train.0.language=fr"])
    assert changed.data.train[0]["language"] == "fr"


def test_a_run_on_a_stream_resumes_where_it_was(place: Path, tmp_path: Path) -> None:
    trainer = {"logging_steps": 1, "use_cpu": True, "save_steps": 2, "save_total_limit": 9}
    data = config(place, sources(place)["stream"], steps=5, trainer=trainer)
    data["data"]["shuffle_buffer"] = 4
    whole = weights(train(config_from_dict(data), tmp_path / "whole", quiet=True))
    folder = tmp_path / "cut"
    train(config_from_dict(data), folder, quiet=True)
    shutil.rmtree(folder / "model")
    for checkpoint in sorted((folder / "stage-connect").glob("checkpoint-*"))[1:]:
        shutil.rmtree(checkpoint)
    again = weights(train(config_from_dict(data), folder, resume=True, quiet=True))
    for name, value in whole.items():
        assert torch.equal(value, again[name]), name
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log if "ce" in entry][-3:] == [3, 4, 5]


@pytest.mark.parametrize("kind", ["stream", "manifest"])
@pytest.mark.parametrize("seed", [None, 7])
def test_every_stage_draws_rows_and_augmentation_in_its_own_way(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    seed: int | None,
) -> None:
    heard: dict[tuple[str, int], list[str]] = {}
    change = Augmentation.samples

    def noted(self: Augmentation, samples: Any, clip: str, epoch: int) -> Any:
        heard.setdefault((now[-1], self.seed), []).append(clip)
        return change(self, samples, clip, epoch)

    now: list[str] = []
    enter = stages.enter_stage

    def entered(config: Any, stage: Any, model: Any) -> None:
        now.append(stage.name)
        enter(config, stage, model)

    monkeypatch.setattr(Augmentation, "samples", noted)
    monkeypatch.setattr(stages, "enter_stage", entered)
    data = config(place, sources(place)[kind])
    data["stages"] = [stage("one"), stage("two")]
    data["data"] |= {"shuffle_buffer": 8, "augment": {"speeds": [1, 1.1], "seed": seed}}
    train(config_from_dict(data), tmp_path / "run", quiet=True)
    (one, first), (two, second) = heard
    assert (one, two) == ("one", "two")
    assert first == second == 7 if seed else first != second
    assert heard[one, first] != heard[two, second]


def test_a_stream_refuses_what_is_longer_than_max_clip_s(place: Path, tmp_path: Path) -> None:
    data = config(place, sources(place)["stream"])
    data["data"]["max_clip_s"] = 0.55
    with pytest.raises(AudioError, match=r"above max_duration_s 0\.55"):
        train(config_from_dict(data), tmp_path / "run", quiet=True)
    data["data"]["max_clip_s"] = 2.5
    with pytest.raises(
        ConfigError, match=r"max_clip_s is 2\.5, but this encoder takes at most 2 s"
    ):
        train(config_from_dict(data), tmp_path / "other", quiet=True)


def test_a_stream_s_loader_is_not_shared_out_a_second_time(place: Path) -> None:
    from types import SimpleNamespace

    stream = SpeechTextStream(open_stream(sources(place)["stream"]), Raw(), rank=1, num_ranks=2)
    arguments = {
        "per_device_train_batch_size": 3,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "dataloader_persistent_workers": False,
        "dataloader_prefetch_factor": None,
    }
    trainer: Any = SimpleNamespace(
        train_dataset=stream,
        train_batch_sampler=None,
        data_collator=lambda examples: [example["id"] for example in examples],
        args=SimpleNamespace(**arguments),
        accelerator=None,  # which would take a rank's share of our share
    )
    assert list(SpeechLMTrainer.get_train_dataloader(trainer)) == [["u3", "u4", "u5"]]


class Raw:
    """A processor whose features are the samples."""

    def features(self, samples: Any) -> Any:
        return samples

    def num_speech_frames(self, length: int) -> int:
        return length


def test_an_augmented_run_resumes_where_it_was(place: Path, tmp_path: Path) -> None:
    trainer = {"logging_steps": 1, "use_cpu": True, "save_steps": 3, "save_total_limit": 9}
    data = config(place, sources(place)["manifest"], steps=6, trainer=trainer)
    plain = weights(train(config_from_dict(data), tmp_path / "plain", quiet=True))
    data["data"]["augment"] = {
        "speeds": [0.9, 1.1],
        "noise": sources(place)["manifest"],
        "reverberation": sources(place)["shards"],
        "time_masks": 1,
        "band_masks": 1,
    }
    folder = tmp_path / "cut"
    whole = weights(train(config_from_dict(data), folder, quiet=True))
    assert any(not torch.equal(value, plain[name]) for name, value in whole.items())
    shutil.rmtree(folder / "model")
    shutil.rmtree(folder / "stage-connect" / "checkpoint-6")
    again = weights(train(config_from_dict(data), folder, resume=True, quiet=True))
    for name, value in whole.items():
        assert torch.equal(value, again[name]), name


@pytest.mark.parametrize(
    ("changes", "data", "message"),
    [
        (
            {},
            {"train": {"type": "kaldy", "path": "x"}},
            r"data\.train\.0: unknown type 'kaldy'.*'kaldi'",
        ),
        (
            {},
            {"train": {"type": "kaldi", "path": "x", "lang": "en"}},
            r"unknown key 'lang' of data of type kaldi; did you mean 'language'",
        ),
        ({}, {"train": {"type": "kaldi"}}, r"the key 'path' is missing"),
        ({}, {"train": {"path": "x"}}, r"the key 'type' is missing"),
        ({}, {"train": [3]}, r"expected a manifest's path or a mapping .* received 3"),
        ({}, {"train": "fleurs.yaml"}, r"a YAML file is no manifest"),
        (
            {},
            {"train": {"type": "nemo", "path": "x", "language": False}},
            r"language: expected text \(put it in quotes.*received False",
        ),
        (
            {},
            {"train": {"type": "webdataset", "path": "x", "streaming": "yes"}},
            r"streaming: expected true or false, received 'yes'",
        ),
        (
            {},
            {"train": {"type": "huggingface", "path": "x", "columns": "fleur"}},
            r"no column map 'fleur'; did you mean 'fleurs'",
        ),
        (
            {"batch_size": None, "max_tokens": 99},
            "stream",
            "give batch_size in place of max_tokens",
        ),
        ({"steps": None, "epochs": 2}, "stream", "give steps in place of epochs"),
        ({}, {"train": "stream", "cache_encoder": True}, "cache_encoder needs all rows at once"),
        (
            {},
            {"train": "manifest", "cache_encoder": True, "augment": {"speeds": [0.9]}},
            "augment changes the speech, but cache_encoder keeps it",
        ),
        (
            {},
            {"train": "manifest", "augment": {"speed": [1]}},
            "unknown key .*did you mean 'speeds'",
        ),
        ({}, {"train": "manifest", "validation": "stream"}, "validation needs all rows at once"),
        ({}, {"train": ["stream", "manifest"]}, "a stream in train stands alone"),
        (
            {},
            {"train": "stream", "long_audio": "split"},
            r"long_audio=split needs all rows at once: .*otreg prepare split",
        ),
    ],
)
def test_a_configuration_that_cannot_be_run_says_why(
    place: Path, changes: dict[str, Any], data: Any, message: str
) -> None:
    known = sources(place)

    def named(value: Any) -> Any:
        if isinstance(value, list):
            return [named(item) for item in value]
        return known.get(value, value) if isinstance(value, str) else value

    made = config(place, None, **changes)
    made["stages"][0] = {k: v for k, v in made["stages"][0].items() if v is not None}
    data = {"train": "stream"} if data == "stream" else data
    made["data"] = {key: named(value) for key, value in data.items()}
    with pytest.raises(ConfigError, match=message):
        config_from_dict(made)


def test_a_folder_that_is_not_there_is_seen_before_anything_is_loaded(place: Path) -> None:
    run = config_from_dict(config(place, {"type": "kaldi", "path": str(place / "none")}))
    with pytest.raises(ConfigError, match=r"no such manifest: '.*none'"):
        run.check_ready()


def test_evaluate_reads_a_yaml_file_that_names_data(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = config_from_dict(config(place, sources(place)["manifest"]))
    train(run, tmp_path / "run", quiet=True)
    (tmp_path / "shards.yaml").write_text(yaml.safe_dump(sources(place)["shards"]))
    command = ["evaluate", str(tmp_path / "run"), "--out", str(tmp_path / "results.json")]
    corpora = ["--data", f"a={sources(place)['manifest']}", "--data", f"{tmp_path / 'shards.yaml'}"]
    assert main([*command, *corpora, "--max-new-tokens", "4"]) == 0
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row.pop("corpus") for row in rows] == ["a", "shards"]
    assert rows[0] == rows[1]
    (tmp_path / "bad.yaml").write_text("type: webdatasets\npath: x\n")
    assert main([*command, "--data", f"b={tmp_path / 'bad.yaml'}"]) == 2
    assert "bad.yaml: unknown type 'webdatasets' of data; did you mean 'webdataset'?" in (
        capsys.readouterr().err
    )
