"""Runs: stages over one model, the run folder, resuming."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import run_config, stage
from torch import Tensor

from otreg.data import SpeechTextDataset, TokenBudgetBatchSampler
from otreg.model import SpeechLMForConditionalGeneration
from otreg.objectives import Term, View
from otreg.objectives.base import transcribed_clips
from otreg.training import ConfigError, config_from_dict, load_config, load_model, train
from otreg.training.batches import EqualEpochs

Towers = tuple[Path, Path]
OTREG = {"otreg": {"weight": 0.3}}
OWN_CTC = {"ctc": {"weight": 0.1, "options": {"tied": False}}}
BUDGET = {
    "name": "budget",
    "train": ["adapter"],
    "epochs": 6,
    "max_tokens": 80,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-2,
    "objectives": OTREG,
    "trainer": {"use_cpu": True, "logging_steps": 1},
}
TWO_STAGES = [
    stage("connect"),
    stage("align", train=["adapter", "lora"], objectives=OTREG, model={"snap": 0.5}, steps=3),
]


def run(config: dict[str, Any], out: Path, **options: Any) -> dict[str, Tensor]:
    """Train and load the result's weights from disk."""
    folder = train(config_from_dict(config), out, quiet=True, **options)
    model, _ = load_model(str(folder))
    return model.state_dict()


def log_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert different == []


def changed(one: dict[str, Tensor], other: dict[str, Tensor]) -> set[str]:
    """The parts of the model that differ by more than a learning rate of 1e-30 can make them."""
    return {
        name.split(".")[0]
        for name in one
        if not torch.allclose(one[name], other[name], rtol=0, atol=1e-20)
    }


def test_a_run_folder_holds_all_that_made_the_model(
    towers: Towers, manifest: Path, tmp_path: Path
) -> None:
    config = config_from_dict(run_config(towers, manifest, TWO_STAGES, lora={"r": 2}))
    folder = train(config, tmp_path / "run", quiet=True)
    assert folder == tmp_path / "run" / "model"
    assert load_config(tmp_path / "run" / "config.yaml") == config
    versions = json.loads((tmp_path / "run" / "versions.json").read_text())
    assert {"python", "otreg", "torch", "transformers", "peft"} <= versions.keys()
    entries = log_of(tmp_path / "run")
    steps = [(e["stage"], e["step"]) for e in entries if "ce" in e]
    assert steps == [("connect", 1), ("connect", 2), ("align", 1), ("align", 2), ("align", 3)]
    assert all("otreg" in e and "otreg/cost" in e for e in entries[3:6])
    model, processor = load_model(str(tmp_path / "run"))
    assert model.config.lora is None
    assert model.config.snap == 0.5
    assert not [name for name in model.state_dict() if "lora" in name or "objective" in name]
    assert processor.audio_token_id == model.config.audio_token_id


def test_each_stage_trains_what_it_names(towers: Towers, manifest: Path, tmp_path: Path) -> None:
    first = run(run_config(towers, manifest, TWO_STAGES[:1]), tmp_path / "a")
    start = run(
        run_config(towers, manifest, [stage("connect", learning_rate=1e-30)]), tmp_path / "b"
    )
    both = run(run_config(towers, manifest, TWO_STAGES, lora={"r": 2}), tmp_path / "c")
    assert changed(first, start) == {"multi_modal_projector"}
    assert changed(both, first) == {"multi_modal_projector", "language_model"}
    whole = [stage(train=["language_model", "audio_tower"], steps=2)]
    every = run(run_config(towers, manifest, whole), tmp_path / "d")
    assert changed(every, start) == {"language_model", "audio_tower"}


def test_two_stages_in_one_run_equal_two_runs_where_the_second_starts_from_the_first(
    towers: Towers, manifest: Path, tmp_path: Path
) -> None:
    together = run(run_config(towers, manifest, TWO_STAGES, lora={"r": 2}), tmp_path / "both")
    run(run_config(towers, manifest, TWO_STAGES[:1]), tmp_path / "first")
    second = run_config(towers, manifest, TWO_STAGES[1:])
    second["model"] = {"init": str(tmp_path / "first"), "lora": {"r": 2}}
    assert_equal(run(second, tmp_path / "second"), together)


def test_a_seed_decides_the_run(towers: Towers, manifest: Path, tmp_path: Path) -> None:
    config = run_config(towers, manifest, TWO_STAGES[1:], lora={"r": 2})
    one = run(config, tmp_path / "a")
    assert_equal(run(config, tmp_path / "b"), one)
    other = run(config | {"seed": 2}, tmp_path / "c")
    assert changed(other, one) == {"multi_modal_projector", "language_model"}


def test_weight_zero_equals_a_stage_without_the_objective(
    towers: Towers, manifest: Path, tmp_path: Path
) -> None:
    zero = {"otreg": {"weight": 0}, **{"ctc": OWN_CTC["ctc"] | {"weight": 0}}}
    one = run(run_config(towers, manifest, [stage(objectives=zero)]), tmp_path / "a")
    assert_equal(run(run_config(towers, manifest, [stage()]), tmp_path / "b"), one)


def test_an_objective_with_a_head_of_its_own_leaves_the_data_order_alone(
    towers: Towers, manifest: Path, tmp_path: Path
) -> None:
    run(run_config(towers, manifest, [stage()]), tmp_path / "a")
    run(run_config(towers, manifest, [stage(objectives=OWN_CTC)]), tmp_path / "b")
    first, second = log_of(tmp_path / "a")[0], log_of(tmp_path / "b")[0]
    assert first["ce"] == second["ce"]


def test_a_head_trains_and_is_checkpointed_but_not_saved_with_the_model(
    towers: Towers, manifest: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    stages = [
        stage(objectives=OWN_CTC, trainer={"use_cpu": True, "save_steps": 1, "logging_steps": 1})
    ]
    final = run(run_config(towers, manifest, stages), tmp_path)
    heads = []
    for step in (1, 2):
        saved = load_file(tmp_path / f"stage-connect/checkpoint-{step}/model.safetensors")
        heads.append({k: v for k, v in saved.items() if k.startswith("objective_heads.ctc.")})
    assert heads[0]
    # The first step's learning rate is 0 (warm-up), the second's is not.
    assert any(not torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    assert not [name for name in final if "objective_heads" in name]


def test_cached_encoder_states_train_the_same_model(
    towers: Towers, manifest: Path, tmp_path: Path
) -> None:
    config = run_config(towers, manifest, [stage(objectives=OTREG)])
    plain = run(config, tmp_path / "a")
    shared = tmp_path / "cache"
    config["data"] |= {"cache_encoder": True, "cache_dir": str(shared)}
    cached = run(config, tmp_path / "b")
    assert plain.keys() == cached.keys()
    for name in plain:
        torch.testing.assert_close(cached[name], plain[name], rtol=1e-3, atol=1e-4)
    states = list(shared.rglob("*.safetensors"))
    assert states
    config["data"]["validation"] = [str(manifest)]  # the same audio: nothing is encoded again
    run(config, tmp_path / "d")
    assert list(shared.rglob("*.safetensors")) == states
    config["data"] |= {"cache_dir": None, "validation": []}
    run(config, tmp_path / "c")
    assert (tmp_path / "c" / "encoder-cache").is_dir()


def test_a_token_budget_and_epochs_see_every_utterance_once_an_epoch(
    towers: Towers, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    load = SpeechTextDataset.__getitem__
    monkeypatch.setattr(
        SpeechTextDataset, "__getitem__", lambda self, i: seen.append(i) or load(self, i)
    )
    run(run_config(towers, manifest, [BUDGET]), tmp_path)
    epochs = [seen[first : first + 8] for first in range(0, len(seen), 8)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(8))] * 6
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert [entry["epoch"] for entry in log_of(tmp_path) if "ce" in entry][-1] == 6


def test_a_token_budget_resumes_in_the_middle_of_an_epoch(
    towers: Towers, manifest: Path, tmp_path: Path
) -> None:
    stages = [BUDGET | {"trainer": {"use_cpu": True, "save_steps": 1, "save_total_limit": None}}]
    config = run_config(towers, manifest, stages)
    expected = run(config, tmp_path)
    shutil.rmtree(tmp_path / "model")
    last = max(int(path.name.split("-")[1]) for path in (tmp_path / "stage-budget").iterdir())
    for step in range(last - 4, last + 1):
        shutil.rmtree(tmp_path / f"stage-budget/checkpoint-{step}")
    assert_equal(run(config, tmp_path, resume=True), expected)


def test_every_epoch_of_a_token_budget_has_as_many_batches() -> None:
    lengths = torch.randint(5, 60, (600,), generator=torch.Generator().manual_seed(0)).tolist()
    plain = TokenBudgetBatchSampler(lengths, 100, seed=0)
    counts = set()
    equal = EqualEpochs(lengths, 100, seed=0, num_epochs=10, world_size=2)
    for epoch in range(10):
        plain.set_epoch(epoch)
        equal.set_epoch(epoch)
        counts.add(len(plain))
        batches = list(equal)
        assert len(batches) == len(equal)
        assert sorted(index for batch in batches for index in batch) == list(range(600))
        assert all(len(b) * max(lengths[i] for i in b) <= 100 for b in batches)
    assert len(counts) > 1
    assert len(equal) % 2 == 0


def test_the_loss_on_validation_data_is_logged_for_every_stage(
    towers: Towers, manifest: Path, tmp_path: Path
) -> None:
    config = run_config(towers, manifest, TWO_STAGES, lora={"r": 2})
    config["data"]["validation"] = str(manifest)
    run(config, tmp_path)
    evaluated = [entry for entry in log_of(tmp_path) if "eval_loss" in entry]
    assert [entry["stage"] for entry in evaluated] == ["connect", "align"]
    last = evaluated[-1]
    assert last["eval_loss"] == pytest.approx(last["eval_ce"] + 0.3 * last["eval_otreg"], rel=1e-4)


def test_stage_compression_stays_for_the_stages_after(
    towers: Towers, manifest: Path, tmp_path: Path
) -> None:
    stages = [
        stage("a", model={"snap": 0.3, "merge_threshold": 0.9, "drop_threshold": 0.8}),
        stage("b", model={"drop_threshold": None}),
    ]
    run(run_config(towers, manifest, stages), tmp_path)
    config = load_model(str(tmp_path))[0].config
    assert (config.snap, config.merge_threshold, config.drop_threshold) == (0.3, 0.9, None)


def test_a_stage_that_drops_frames_needs_a_pad_embedding(
    towers: Towers, manifest: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    audio_tower, language_model = towers
    without = tmp_path / "language_model"
    shutil.copytree(language_model, without)
    model = AutoModelForCausalLM.from_pretrained(language_model)
    with torch.no_grad():
        model.get_input_embeddings().weight[model.config.pad_token_id] = 0
    model.save_pretrained(without)
    stages = [stage("a", model={"drop_threshold": 0.8})]
    config = run_config((audio_tower, without), manifest, stages)
    with pytest.raises(ConfigError, match="pad_token_id 0 is zero, so no frame is ever alike"):
        run(config, tmp_path / "run")


def test_half_precision_towers_train_adapter_and_lora_in_float32(
    towers: Towers, manifest: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    final = run(run_config(towers, manifest, TWO_STAGES, lora={"r": 2}, dtype="bfloat16"), tmp_path)
    assert {value.dtype for value in final.values()} == {torch.bfloat16}
    trained = load_file(tmp_path / "stage-align/checkpoint-3/model.safetensors")
    for name, value in trained.items():
        trains = "lora_" in name or name.startswith("multi_modal_projector")
        assert value.dtype == (torch.float32 if trains else torch.bfloat16), name
    assert all("otreg" in entry for entry in log_of(tmp_path)[3:6])


@pytest.fixture(scope="module")
def finished(
    towers: Towers, manifest: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path, dict[str, Tensor]]:
    """A finished run of two stages that kept every checkpoint."""
    keep = {"use_cpu": True, "save_steps": 1, "save_total_limit": None}
    stages = [
        stage("connect", trainer=keep, objectives=OWN_CTC),
        stage("align", train=["adapter", "lora"], objectives=OTREG, steps=3, trainer=keep),
    ]
    config = run_config(towers, manifest, stages, lora={"r": 2, "dropout": 0.1})
    out = tmp_path_factory.mktemp("finished") / "run"
    return config, out, run(config, out)


@pytest.mark.parametrize(
    "lost",
    [
        ["model"],
        ["model", "stage-align/checkpoint-2", "stage-align/checkpoint-3"],
        ["model", "stage-align"],
        ["model", "stage-align", "stage-connect/checkpoint-2"],
        ["model", "stage-align", "stage-connect"],
    ],
    ids=["final save", "last steps", "stage 2", "within stage 1", "everything"],
)
def test_an_interrupted_run_resumes_to_the_same_model(
    finished: tuple[dict[str, Any], Path, dict[str, Tensor]], tmp_path: Path, lost: list[str]
) -> None:
    config, source, expected = finished
    out = tmp_path / "run"
    shutil.copytree(source, out)
    for name in lost:
        shutil.rmtree(out / name)
    assert_equal(run(config, out, resume=True), expected)


def test_resuming_a_complete_run_changes_nothing(
    finished: tuple[dict[str, Any], Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    config, source, expected = finished
    before = (source / "model" / "model.safetensors").stat().st_mtime_ns
    assert_equal(run(config, source, resume=True), expected)
    assert (source / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_resuming_with_another_configuration_is_refused(
    finished: tuple[dict[str, Any], Path, dict[str, Tensor]],
) -> None:
    config, source, _ = finished
    stages = [config["stages"][0], config["stages"][1] | {"batch_size": 2}]
    with pytest.raises(ConfigError, match=r"stages\.1\.batch_size was 4 and is now 2"):
        run(config | {"stages": stages}, source, resume=True)


def test_a_folder_with_something_in_it_is_refused(
    towers: Towers, manifest: Path, tmp_path: Path
) -> None:
    config = run_config(towers, manifest, [stage()])
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty; go on with it by --resume"):
        run(config, tmp_path)
    with pytest.raises(ConfigError, match="is not a run"):
        run(config, tmp_path, resume=True)
    with pytest.raises(ConfigError, match="is a file"):
        run(config, tmp_path / "notes.txt")


def test_a_saved_model_computes_what_the_trained_one_did(
    towers: Towers, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LoRA merged or not, saved and reloaded: the same loss on the training data."""
    config = run_config(towers, manifest, TWO_STAGES, lora={"r": 2})
    config["data"]["validation"] = str(manifest)
    run(config, tmp_path / "a")
    trained = [e["eval_ce"] for e in log_of(tmp_path / "a") if "eval_ce" in e][-1]
    again = run_config(towers, manifest, [stage("again", steps=1, learning_rate=1e-30)])
    again["model"] = {"init": str(tmp_path / "a" / "model")}
    again["data"]["validation"] = str(manifest)
    run(again, tmp_path / "b")
    reloaded = [e["eval_ce"] for e in log_of(tmp_path / "b") if "eval_ce" in e][-1]
    assert reloaded == pytest.approx(trained, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio_tower": "no/such/tower"}, "model.audio_tower: no such folder: 'no/such/tower'"),
        ({"audio_tower": str(Path(__file__).parent)}, "cannot join audio_tower"),
        ({"adapter_type": "cnov"}, "adapter_type must be one of"),
        ({"snap_temperature": 0}, "snap_temperature must be > 0"),
        ({"prompt_template": "{bos}"}, "audio"),
    ],
)
def test_a_model_that_cannot_be_built_is_a_clear_error(
    towers: Towers, manifest: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    config = run_config(towers, manifest, [stage()])
    config["model"] |= change
    with pytest.raises(ConfigError, match=message):
        run(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        ({"otreg": {"weight": 1, "options": {"epsilno": 1}}}, "no option 'epsilno'.*'epsilon'"),
        ({"mine": {"weight": 1, "type": "nowhere:Thing"}}, "cannot be imported"),
        ({"otreg": {"weight": 1, "options": {"epsilon": -1}}}, "epsilon"),
    ],
)
def test_a_wrong_objective_stops_before_any_training(
    towers: Towers, manifest: Path, tmp_path: Path, objectives: dict[str, Any], message: str
) -> None:
    stages = [stage("connect"), stage("align", objectives=objectives)]
    with pytest.raises(ConfigError, match=message):
        run(run_config(towers, manifest, stages), tmp_path / "run")
    assert not (tmp_path / "run" / "stage-connect").exists()


def test_an_objective_of_ones_own_trains_without_registration(
    towers: Towers, manifest: Path, tmp_path: Path
) -> None:
    objectives = {"mine": {"weight": 1, "type": "test_trainer:Drift", "options": {"scale": 2.0}}}
    final = run(run_config(towers, manifest, [stage(objectives=objectives)]), tmp_path)
    assert final
    assert all("mine" in entry for entry in log_of(tmp_path) if "ce" in entry)


class Remembered:
    """An objective that compares with the speech pass of the stage's start."""

    needs = frozenset({"reference_speech"})
    layers = frozenset[int]()

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        return transcribed_clips(batch).sum()

    def __call__(self, view: View) -> Term:
        assert view.reference_speech is not None
        now, then = view.speech.logits, view.reference_speech.logits
        return Term((now - then).pow(2).sum())


def test_the_weights_of_the_stages_start_are_kept_for_either_reference_pass(
    towers: Towers, manifest: Path, tmp_path: Path
) -> None:
    objectives = {"stay": {"weight": 1, "type": "test_stages:Remembered"}}
    run(run_config(towers, manifest, [stage(objectives=objectives, steps=4)]), tmp_path)
    assert (tmp_path / "stage-connect" / "reference.safetensors").is_file()
    terms = [entry["stay"] for entry in log_of(tmp_path) if "stay" in entry]
    assert terms[0] == pytest.approx(0, abs=1e-6)  # before the first step nothing has moved
    assert terms[-1] > 1e-6


def test_the_final_model_is_hugging_face_native(
    towers: Towers, manifest: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForMultimodalLM, AutoProcessor

    run(run_config(towers, manifest, [stage()]), tmp_path)
    model = AutoModelForMultimodalLM.from_pretrained(tmp_path / "model")
    assert isinstance(model, SpeechLMForConditionalGeneration)
    assert type(AutoProcessor.from_pretrained(tmp_path / "model")).__name__ == "SpeechLMProcessor"
