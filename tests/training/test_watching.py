"""A watched run: what is shown is there, and what is trained stays the same to the bit."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tiny_run import run_config, stage
from torch import Tensor

from otreg.cli import main
from otreg.data import SpeechTextDataset
from otreg.evaluation.watching import MeasureWhileTraining
from otreg.model.evaluation_mode import same_randomness
from otreg.training import ConfigError, config_from_dict, load_model, train
from otreg.training.watching import check_watch

Towers = tuple[Path, Path]
STAGES = [
    stage("align", steps=3, objectives={"otreg": {"weight": 0.3}}),
    stage("tune", steps=4, train=["adapter", "lora"]),
]


def configured(towers: Towers, manifest: Path, **watch: Any) -> dict[str, Any]:
    """Two stages with dropout, whose weights depend on every random number."""
    lora = {"r": 2, "dropout": 0.5}
    config = run_config(towers, manifest, STAGES, lora=lora, adapter_dropout=0.2)
    return config | ({"watch": watch} if watch else {})


def log_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(
    towers: Towers, manifest: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The same run, watched and not."""
    root = tmp_path_factory.mktemp("watched")
    plain = configured(towers, manifest)
    train(config_from_dict(plain), root / "plain", quiet=True)
    watch = {"every": 2, "rows": 3, "to": "tensorboard"}
    config = config_from_dict(configured(towers, manifest, **watch))
    train(config, root / "watched", quiet=True, measure=MeasureWhileTraining)
    return {"plain": root / "plain", "watched": root / "watched"}


def test_watching_changes_no_weight_by_a_bit(runs: dict[str, Path]) -> None:
    def weights(name: str) -> dict[str, Tensor]:
        return load_model(str(runs[name]))[0].state_dict()

    plain, watched = weights("plain"), weights("watched")
    assert plain.keys() == watched.keys()
    assert all(torch.equal(plain[name], watched[name]) for name in plain)


def test_watching_leaves_every_entry_of_the_losses(runs: dict[str, Path]) -> None:
    def losses(name: str) -> list[dict[str, Any]]:
        return [entry for entry in log_of(runs[name]) if "loss" in entry]

    assert losses("watched") == losses("plain")
    assert len(losses("plain")) == 7


def test_measures_are_logged_at_the_start_every_so_often_and_at_the_end(
    runs: dict[str, Path],
) -> None:
    entries = [entry for entry in log_of(runs["watched"]) if "gap/coverage" in entry]
    at = [(entry["stage"], entry["step"]) for entry in entries]
    assert at == [
        (name, step) for name, last in (("align", 3), ("tune", 4)) for step in (0, 2, last)
    ]
    assert all(0 <= entry["gap/coverage"] <= 1 for entry in entries)
    assert not any(key.startswith("gap/num_") for entry in entries for key in entry)
    assert entries[0]["gap/centroid_distance"] != entries[1]["gap/centroid_distance"]
    pictures = sorted(path.name for path in (runs["watched"] / "watch/align").iterdir())
    assert pictures == [f"plan-{step:06d}.png" for step in (0, 2, 3)]
    assert not (runs["plain"] / "watch").exists()


def test_tensorboard_has_the_terms_the_measures_and_the_picture(runs: dict[str, Path]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def read(name: str) -> Any:
        events = EventAccumulator(str(runs["watched"] / "watch/tensorboard" / name))
        events.Reload()
        return events

    events = read("align")
    logged = {entry["step"]: entry for entry in log_of(runs["watched"]) if "otreg" in entry}
    shown = {event.step: event.value for event in events.Scalars("train/otreg")}
    assert shown == pytest.approx({step: entry["otreg"] for step, entry in logged.items()})
    assert {"train/loss", "train/ce", "train/otreg/cost"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("train/gap/coverage")] == [0, 2, 3]
    pictures = events.Images("plan")
    assert [picture.step for picture in pictures] == [0, 2, 3]
    assert pictures[0].encoded_image_string.startswith(b"\x89PNG")
    assert [picture.step for picture in read("tune").Images("plan")] == [0, 2, 4]


@pytest.mark.slow
def test_offline_wandb_writes_into_the_run_folder(
    towers: Towers, manifest: Path, tmp_path: Path
) -> None:
    config = configured(towers, manifest, to=["wandb"], every=2)
    config["stages"] = config["stages"][:1]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(config))
    away = {f"WANDB_{kind}_DIR": str(tmp_path / kind) for kind in ("CACHE", "CONFIG", "DATA")}
    away |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    command = "import sys; from otreg.cli import main; sys.exit(main(sys.argv[1:]))"
    ran = subprocess.run(
        [sys.executable, "-c", command, "train", "recipe.yaml", "--out", "run", "--quiet"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | away,
    )
    assert ran.returncode == 0, ran.stderr
    (record,) = (tmp_path / "run/watch/wandb").glob("offline-run-*/run-*.wandb")
    written = record.read_bytes()
    assert b"train/otreg" in written
    assert b"train/gap/coverage" in written
    pictures = sorted((record.parent / "files/media/images").glob("plan_*.png"))
    assert [path.read_bytes()[:4] for path in pictures] == [b"\x89PNG"] * 3
    assert not (tmp_path / "wandb").exists()


def seed_all() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)


def draw() -> list[float]:
    return [random.random(), np.random.rand(), torch.rand(()).item()]  # noqa: NPY002


def draw_aside(*, then_fail: bool) -> None:
    with same_randomness():
        draw()
        if then_fail:
            raise KeyError


@pytest.mark.parametrize("fails", [False, True])
def test_random_states_are_given_back(fails: bool) -> None:
    seed_all()
    expected = draw()
    seed_all()
    with pytest.raises(KeyError) if fails else contextlib.nullcontext():
        draw_aside(then_fail=fails)
    assert draw() == expected


def test_a_resumed_run_may_be_watched_otherwise(
    runs: dict[str, Path], towers: Towers, manifest: Path
) -> None:
    config = config_from_dict(configured(towers, manifest, to=[], every=1))
    out = runs["watched"]
    assert train(config, out, resume=True, measure=MeasureWhileTraining) == out / "model"


@pytest.mark.parametrize(
    ("watch", "measure", "match"),
    [
        ({}, None, "need who measures them: call train"),
        ({"to": "tensorbord"}, MeasureWhileTraining, "watch.to.0: input should be 'tensorboard'"),
        ({"evry": 1}, MeasureWhileTraining, "did you mean 'every'"),
        ({"to": "wandb"}, MeasureWhileTraining, r'pip install "otreg\[wandb\]", or leave it out'),
    ],
)
def test_what_cannot_be_watched_is_refused(
    towers: Towers,
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    watch: dict[str, Any],
    measure: Any,
    match: str,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "wandb" else name)
    data = configured(towers, manifest) | {"watch": watch}
    with pytest.raises(ConfigError, match=match):
        train(config_from_dict(data), tmp_path / "run", quiet=True, measure=measure)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("sharded", [{"fsdp": "full_shard"}, {"deepspeed": "zero3.json"}])
def test_a_sharded_model_is_not_measured(
    towers: Towers, manifest: Path, sharded: dict[str, str]
) -> None:
    arguments: Any = types.SimpleNamespace(**({"fsdp": None, "deepspeed": None} | sharded))
    config = config_from_dict(configured(towers, manifest, to=[]))
    with pytest.raises(ConfigError, match="need the whole model in one process"):
        check_watch(config, arguments, MeasureWhileTraining)
    config = config_from_dict(configured(towers, manifest, gap=False, plan=False, to=[]))
    check_watch(config, arguments, None)


def test_a_stream_alone_cannot_be_measured(towers: Towers, manifest: Path, tmp_path: Path) -> None:
    data = configured(towers, manifest, to=[])
    data["data"]["train"] = [{"type": "webdataset", "path": "a.tar", "streaming": True}]
    with pytest.raises(ConfigError, match=r"give data\.validation, or switch watch\.gap and"):
        train(config_from_dict(data), tmp_path / "run", quiet=True, measure=MeasureWhileTraining)
    assert not (tmp_path / "run").exists()
    arguments: Any = types.SimpleNamespace(fsdp=None, deepspeed=None)
    data["data"]["validation"] = [str(manifest)]
    check_watch(config_from_dict(data), arguments, MeasureWhileTraining)
    del data["data"]["validation"]
    data["watch"] = {"to": [], "gap": False, "plan": False}
    check_watch(config_from_dict(data), arguments, None)


def test_speech_is_measured_as_it_is_where_training_augments_it(
    towers: Towers, manifest: Path, tmp_path: Path
) -> None:
    measured: list[Any] = []

    def measure(told: Any) -> Any:
        measured.append(told)
        return MeasureWhileTraining(told)

    data = configured(towers, manifest, to=[], plan=False, rows=2)
    data["stages"] = [stage(steps=1)]
    data["data"]["augment"] = {"speeds": [0.9], "seed": 3}
    train(config_from_dict(data), tmp_path / "run", quiet=True, measure=measure)
    (told,) = measured
    assert told.data.augmentation is None
    plain = SpeechTextDataset([manifest], told.processor)
    assert [u.id for u in told.data.utterances] == [u.id for u in plain.utterances]
    for found, expected in zip(told.data, plain, strict=False):
        assert np.array_equal(found["input_features"][0], expected["input_features"][0])


def test_rows_without_a_transcript_cannot_be_measured(
    towers: Towers, tmp_path: Path, manifest: Path
) -> None:
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    silent = tmp_path / "text.jsonl"
    silent.write_text(json.dumps({"id": "a", "language": "en", "messages": said}))
    data = configured(towers, manifest, to=[])
    data["data"]["validation"] = [str(silent)]
    with pytest.raises(ValueError, match="expected a row with a transcribed clip to measure on"):
        train(config_from_dict(data), tmp_path / "run", quiet=True, measure=MeasureWhileTraining)


def test_report_to_has_one_place(towers: Towers, manifest: Path) -> None:
    data = configured(towers, manifest)
    data["stages"] = [stage(trainer={"report_to": "wandb"})]
    with pytest.raises(ConfigError, match=r"trainer.report_to cannot be set here: give watch"):
        config_from_dict(data)


def test_train_ends_with_a_summary(
    towers: Towers, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = configured(towers, manifest)
    data["data"]["validation"] = [str(manifest)]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(data))
    out = tmp_path / "my run"
    assert main(["train", str(tmp_path / "recipe.yaml"), "--out", str(out), "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    entries = log_of(out)
    (first, second) = [entry["trained"] for entry in entries if "trained" in entry]
    model = load_model(str(out))[0]
    adapter = sum(p.numel() for p in model.multi_modal_projector.parameters())
    lora = 2 * sum(  # rank times what goes in and comes out, of q, k, v and o
        sum(p.shape)
        for name, p in model.language_model.named_parameters()
        if name.endswith("_proj.weight") and "self_attn" in name
    )
    assert first == {"adapter": adapter}
    assert second == {"adapter": adapter, "lora": lora}
    assert lines[0].startswith(f"align: adapter ({adapter:,} parameters); 3 steps, ")
    last = [entry for entry in entries if "otreg" in entry][-1]
    assert lines[1] == (
        f"  training: loss {last['loss']:.3g}, ce {last['ce']:.3g}, otreg {last['otreg']:.3g}"
    )
    evaluated = next(entry for entry in entries if "eval_loss" in entry)
    assert lines[2].startswith(f"  validation: loss {evaluated['eval_loss']:.3g}, ")
    assert lines[-2:] == [
        f"model: {out / 'model'}",
        f"next:  otreg evaluate '{out}' --data NAME=MANIFEST",
    ]
