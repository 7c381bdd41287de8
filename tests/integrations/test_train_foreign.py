"""`otreg train model.init=…` on models of others, and the commands that read what it made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from families.base import TEXTS, waveforms
from families_at_hand import ALL, EIGHT_S, READ, steady
from torch import Tensor

from otreg.cli import main
from otreg.data.manifest import Utterance, write_manifest
from otreg.integrations.parts import set_trainable
from otreg.training.config import RunConfig, config_from_dict
from otreg.training.stages import train

OTREG = {"weight": 0.3, "options": {"tol": 1e-5, "max_iter": 5000, "vocabulary": 20}}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight utterances of different lengths."""
    folder = tmp_path_factory.mktemp("speech")
    texts = [*TEXTS, *TEXTS[::-1]]
    utterances = []
    for number, sound in enumerate(waveforms(*EIGHT_S)):
        path = folder / f"{number}.wav"
        soundfile.write(path, sound, 16_000)
        utterances.append(Utterance(str(number), path, texts[number], "es"))
    write_manifest(folder / "manifest.jsonl", utterances)
    return folder / "manifest.jsonl"


def stage(name: str, *groups: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "train": list(groups),
        "objectives": {"otreg": OTREG},
        "steps": 2,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "trainer": {"use_cpu": True, "logging_steps": 1},
        **changes,
    }


def config(folder: Path, manifest: Path, *stages: dict[str, Any], **model: Any) -> RunConfig:
    data = {"train": [str(manifest)]}
    model = {"init": str(folder), **model}
    return config_from_dict({"seed": 1, "model": model, "data": data, "stages": list(stages)})


def weights(model: Any) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", READ)
def test_every_family_trains_by_parts(
    name: str, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter stage and a LoRA stage: only what a stage names changes, and the run is loadable."""
    family = ALL[name]
    (tmp_path / "model").mkdir()
    family.save(tmp_path / "model")
    # By the fixture, which has what stands for packages that have no build here, and trusts its code.
    monkeypatch.setattr("otreg.integrations.loading.load", lambda place, **_: family.load(place))
    start, processor = family.load(tmp_path / "model")
    if any(getattr(processor, part, processor) is None for part in processor.get_attributes()):
        # Parts for images were left out of the fixture, without which this processor cannot be saved.
        monkeypatch.setattr(type(processor), "save_pretrained", lambda *_: None)
    before = weights(start)
    stages = [stage("connect", "adapter"), stage("both", "adapter", "lora")]
    lora = {"r": 2, "alpha": 4.0}
    with family.stand_in():
        run = train(
            config(tmp_path / "model", manifest, *stages, lora=lora), tmp_path / "run", quiet=True
        )
    after = weights(type(start).from_pretrained(run))
    assert after.keys() == before.keys()  # LoRA is merged
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    adapted = {n for n in changed if "lora" not in n and not _is_attention(n)}
    assert adapted, "the adapter has not trained"
    attention = changed - adapted
    assert attention, "LoRA has not trained"
    assert all("layers" in n for n in attention)
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    losses = [entry for entry in log if "loss" in entry]
    assert {entry["stage"] for entry in losses} == {"connect", "both"}
    assert all(entry["ce"] > 0 and entry["otreg"] > 0 for entry in losses)


def _is_attention(name: str) -> bool:
    projections = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj")
    in_language_model = "audio_tower" not in name and "encoder" not in name and "embed" not in name
    return in_language_model and any(part in name for part in projections)


@pytest.mark.parametrize("name", READ)
def test_parts_are_apart_and_of_every_part_something_trains(name: str, load: Any) -> None:
    _, model, _ = load(name)
    trained = {}
    for group in ("adapter", "audio_tower", "language_model"):
        count = set_trainable(model, [group])
        trained[group] = {n for n, p in model.named_parameters() if p.requires_grad}
        assert count > 0
    groups = list(trained.values())
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert not groups[1] & groups[2]
    assert all("audio" in n or "encoder" in n for n in trained["audio_tower"])
    assert any("layers" in n for n in trained["language_model"])
    assert not any("vision" in n or "visual" in n for n in set().union(*groups))


@pytest.mark.parametrize("name", ["qwen2_audio", "qwen3_asr", "glmasr"])
def test_a_resumed_run_ends_with_the_same_weights(
    name: str, manifest: Path, tmp_path: Path
) -> None:
    """From a checkpoint within the second stage; their checkpoints' names differ from memory's."""
    family = ALL[name]
    (tmp_path / "model").mkdir()
    family.save(tmp_path / "model")
    saving = {"use_cpu": True, "save_steps": 2, "logging_steps": 1}
    stages = [
        stage("connect", "adapter", steps=2, trainer=saving),
        stage("both", "adapter", "lora", steps=4, trainer=saving),
    ]
    settings = config(tmp_path / "model", manifest, *stages, lora={"r": 2, "dropout": 0.1})
    whole = train(settings, tmp_path / "whole", quiet=True)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "model")
    shutil.rmtree(tmp_path / "cut" / "stage-both" / "checkpoint-4")
    resumed = train(settings, tmp_path / "cut", resume=True, quiet=True)
    one, other = weights(family.load(whole)[0]), weights(family.load(resumed)[0])
    assert one.keys() == other.keys()
    different = [n for n in one if not torch.equal(one[n], other[n])]
    assert not different


def test_a_checkpoint_that_lacks_a_weight_is_refused(manifest: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    (tmp_path / "model").mkdir()
    ALL["qwen2_audio"].save(tmp_path / "model")
    saving = {"use_cpu": True, "save_steps": 2}
    settings = config(tmp_path / "model", manifest, stage("connect", "adapter", trainer=saving))
    train(settings, tmp_path / "run", quiet=True)
    shutil.rmtree(tmp_path / "run" / "model")
    file = tmp_path / "run" / "stage-connect" / "checkpoint-2" / "model.safetensors"
    held = load_file(file)
    held.pop(next(name for name in held if "projector" in name))
    save_file(held, file, metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match="projector"):
        train(settings, tmp_path / "run", resume=True, quiet=True)


def test_micro_batches_make_one_step(manifest: Path, tmp_path: Path) -> None:
    """1x8 = 2x4 = 8x1, cross-entropy included, which Qwen2-Audio's own loss is not."""
    family = ALL["voxtral"]
    (tmp_path / "model").mkdir()
    family.save(tmp_path / "model")
    found = []
    for size in (8, 4, 1):
        plain = {"optimizer": "sgd", "learning_rate": 1.0, "warmup_fraction": 0.0}
        one = stage("connect", "adapter", steps=1, batch_size=size, scheduler="constant", **plain)
        one["gradient_accumulation_steps"] = 8 // size
        one["max_grad_norm"] = 0.0
        settings = config(tmp_path / "model", manifest, one)
        run = train(settings, tmp_path / f"run-{size}", quiet=True)
        found.append(weights(family.load(run)[0]))
    start = weights(family.load(tmp_path / "model")[0])
    steps = [torch.cat([(w[n] - start[n]).flatten() for n in start]) for w in found]
    assert steps[0].norm() > 0
    for step in steps[1:]:
        assert (step - steps[0]).norm() < 1e-3 * steps[0].norm()


def test_the_commands_read_a_model_of_others(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """train, evaluate, transcribe and align; the request that it was trained with is kept."""
    (tmp_path / "model").mkdir()
    ALL["qwen3_asr"].save(tmp_path / "model")
    recipe = {
        "model": {"init": str(tmp_path / "model"), "request_options": {"language": "Spanish"}},
        "data": {"train": [str(manifest)]},
        "stages": [stage("connect", "adapter", max_tokens=1000, batch_size=None)],
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    run = tmp_path / "run"
    assert main(["train", str(tmp_path / "recipe.yaml"), "--out", str(run), "--quiet"]) == 0
    asked = json.loads((run / "model" / "otreg_request.json").read_text())
    assert asked == {"request": None, "options": {"language": "Spanish"}}
    short = ["--max-new-tokens", "4"]
    assert main(["evaluate", str(run), "--data", f"test={manifest}", *short]) == 0
    results = json.loads((run / "results.json").read_text())
    assert results["rows"][0]["num_utterances"] == 8
    assert results["gap"][0]["num_utterances"] == 8
    capsys.readouterr()
    sound = manifest.with_name("0.wav")
    assert main(["transcribe", str(run), str(sound), *short]) == 0
    assert capsys.readouterr().out.startswith(f"{sound}\t")
    assert main(["align", str(run), str(manifest), "--out", str(tmp_path / "plans")]) == 0
    assert (tmp_path / "plans" / "7.plan.png").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.cache_encoder": True}, "encodes by its own code"),
        ({"model.snap": 0.5}, "otreg's own model"),
        ({"stages.0.model": {"snap": 0.5}}, "otreg's own model"),
        ({"data.interleave": {}}, "words"),
    ],
)
def test_what_a_model_of_others_cannot_is_refused(
    changes: dict[str, Any], message: str, manifest: Path, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    ALL["qwen2_audio"].save(tmp_path / "model")
    data: dict[str, Any] = {
        "model": {"init": str(tmp_path / "model")},
        "data": {"train": [str(manifest)]},
        "stages": [stage("connect", "adapter")],
    }
    for key, value in changes.items():
        *path, last = key.split(".")
        place: Any = data
        for part in path:
            place = place[int(part)] if part.isdigit() else place[part]
        place[last] = value
    with pytest.raises(ValueError, match=message):
        train(config_from_dict(data), tmp_path / "run", quiet=True)


def test_a_prompt_of_otregs_own_model_stays_as_it_is(tmp_path: Path) -> None:
    from otreg.integrations.loading import load_speech_lm

    (tmp_path / "config.json").write_text('{"model_type": "otreg_speech_lm"}')
    with pytest.raises(ValueError, match="prompt was fixed"):
        load_speech_lm(tmp_path, request="Say it again.")
    with pytest.raises(ValueError, match="no such run or model folder"):
        load_speech_lm(tmp_path / "nothing" / "here" / "at-all")


def test_results_of_a_hub_model_need_a_place(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "some-owner/some-model", "--data", f"test={manifest}"]) == 2
    assert "--out" in capsys.readouterr().err


def test_frozen_parts_are_still_while_the_rest_trains(manifest: Path, tmp_path: Path) -> None:
    """Granite's BatchNorm would learn new statistics from speech though its encoder is frozen."""
    from otreg.model.evaluation_mode import rest
    from otreg.training.model_parts import frozen_modules

    family = ALL["granite_speech"]
    family.save(tmp_path)
    with family.stand_in():
        model, _ = family.load(tmp_path)
    set_trainable(steady(model).train(), ["adapter"])
    still = {part for frozen in frozen_modules(model) for part in frozen.modules()}
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    assert norms
    assert all(norm in still for norm in norms)
    assert model not in still
    assert not still & set(model.model.projector.modules())
    for frozen in frozen_modules(model):
        rest(frozen)
    assert not any(norm.training for norm in norms)


@pytest.mark.parametrize("reentrant", [True, False])
def test_frozen_layers_recompute_where_checkpointing_is_asked_for(
    load: Any, reentrant: bool
) -> None:
    """The gradient passes through the frozen decoder to the adapter; there the memory goes."""
    from otreg.model.evaluation_mode import rest
    from otreg.training.model_parts import frozen_modules

    family, model, processor = load("qwen2_audio")
    batch = family.batch(processor, waveforms(0.9), TEXTS[:1])
    set_trainable(model, ["adapter"])
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    model.train()
    for frozen in frozen_modules(model):
        rest(frozen)
    calls = []
    # Before it: recomputation may stop inside, as soon as all that is needed is there.
    layer = model.get_decoder().layers[0]
    hook = layer.mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    model(**batch).loss.backward()
    hook.remove()
    assert len(calls) == 2
    assert all(p.grad is not None for p in model.model.multi_modal_projector.parameters())
    assert not any(m.training for m in model.modules() if isinstance(m, torch.nn.Dropout))


def test_a_run_may_checkpoint_activations(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    ALL["voxtral"].save(tmp_path / "model")
    found = []
    for name, options in (("plain", {}), ("checkpointed", {"activation_checkpointing": True})):
        trainer = {"use_cpu": True, **options}
        settings = config(tmp_path / "model", manifest, stage("a", "adapter", trainer=trainer))
        run = train(settings, tmp_path / name, quiet=True)
        found.append(weights(ALL["voxtral"].load(run)[0]))
    assert all(torch.allclose(found[0][n], found[1][n], atol=1e-6) for n in found[0])


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from otreg.integrations import load as load_model

    ALL["qwen2_audio"].save(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    held.pop(next(name for name in held if "projector" in name))
    save_file(held, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 of the model's weights.*projector"):
        load_model(tmp_path)


def test_what_is_asked_is_kept_part_by_part(tmp_path: Path) -> None:
    from otreg.integrations.loading import load_speech_lm
    from otreg.integrations.processor import REQUEST_FILE

    ALL["qwen3_asr"].save(tmp_path)
    saved = {"request": "Write it down.", "options": {"language": "Spanish"}}
    (tmp_path / REQUEST_FILE).write_text(json.dumps(saved))
    _, processor = load_speech_lm(tmp_path)
    assert (processor.request, processor.options) == ("Write it down.", {"language": "Spanish"})
    _, processor = load_speech_lm(tmp_path, request_options={"language": "German"})
    assert (processor.request, processor.options) == ("Write it down.", {"language": "German"})
    (tmp_path / REQUEST_FILE).write_text("[]")
    with pytest.raises(ValueError, match="must hold a request and options"):
        load_speech_lm(tmp_path)


def test_a_model_of_otregs_own_comes_from_the_hub_by_its_id(monkeypatch: Any) -> None:
    import otreg.model.loading as loading

    asked = []
    for name in ("SpeechLMForConditionalGeneration", "SpeechLMProcessor"):
        stand_in = type(name, (), {"from_pretrained": staticmethod(lambda p, **_: asked.append(p))})
        monkeypatch.setattr(loading, name, stand_in)
    loading.load_model("some-owner/some-model")
    assert asked == ["some-owner/some-model"] * 2


def test_a_processor_goes_to_other_processes_without_its_model(load: Any, manifest: Path) -> None:
    import pickle

    from otreg.data import SpeechTextCollator, SpeechTextDataset
    from otreg.integrations import ForeignPort
    from otreg.integrations.processor import ForeignProcessor

    _, model, processor = load("qwen3_asr")
    ours = ForeignProcessor(ForeignPort(model, processor=processor), processor)
    copied = pickle.loads(pickle.dumps(ours))
    assert copied.port is None
    rows = [SpeechTextDataset(manifest, p)[0] for p in (ours, copied)]
    one, other = (SpeechTextCollator(p)([row]) for p, row in zip((ours, copied), rows, strict=True))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert copied.decode([5, 6]) == ours.decode([5, 6])
