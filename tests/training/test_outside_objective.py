"""The example of an outsider's objective trains from a configuration, by its name alone."""

import json
import sys
from pathlib import Path

import pytest
import torch
from tiny_run import run_config, save_towers, stage

from otreg.model.loading import load_model
from otreg.training import config_from_dict, train

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield
    sys.modules.pop("outside_objective", None)


def test_an_outsiders_objective_trains_from_a_configuration(manifest, tmp_path, on_path):
    """It needs the text pass and hidden states at layer 2."""
    towers = save_towers(tmp_path / "towers", num_layers=2)
    mine = {"weight": 0.5, "type": "outside_objective:Pooled", "options": {"layer": 2}}
    models = {}
    for name, objectives in {"base": {}, "mine": {"pooled": mine}}.items():
        data = run_config(towers, manifest, [stage(objectives=objectives)])
        out = tmp_path / name
        models[name] = train(config_from_dict(data), out, quiet=True)
    lines = (tmp_path / "mine" / "log.jsonl").read_text().splitlines()
    logged = [entry for entry in map(json.loads, lines) if "pooled" in entry]
    assert len(logged) == 2
    for entry in logged:
        assert entry["pooled"] == pytest.approx(1 - entry["pooled/cosine"], abs=1e-5)
        assert entry["loss"] == pytest.approx(entry["ce"] + 0.5 * entry["pooled"], rel=1e-3)
    adapters = [
        load_model(str(folder))[0].multi_modal_projector.output.weight for folder in models.values()
    ]
    assert not torch.equal(*adapters)


def test_rows_without_speech_train_beside_others(manifest, tmp_path, on_path):
    """Micro-batches of one row each, half of them text alone, make the step of one batch."""
    turns = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    rows = [
        *manifest.read_text().splitlines()[:1],
        json.dumps({"id": "t", "language": "en", "messages": turns}),
    ]
    mixed = manifest.with_name("with-text.jsonl")
    mixed.write_text("".join(row + "\n" for row in rows))
    towers = save_towers(tmp_path / "towers", num_layers=2)
    mine = {"pooled": {"weight": 0.5, "type": "outside_objective:Pooled"}}
    losses = []
    for size in (2, 1):
        one = stage(objectives=mine, batch_size=size, gradient_accumulation_steps=2 // size)
        out = tmp_path / str(size)
        train(config_from_dict(run_config(towers, mixed, [one])), out, quiet=True)
        entries = map(json.loads, (out / "log.jsonl").read_text().splitlines())
        losses.append([e[name] for e in entries if "loss" in e for name in ("pooled", "ce")])
    assert len(losses[0]) == 4
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_the_example_is_short():
    lines = (EXAMPLES / "outside_objective.py").read_text().splitlines()
    start = lines.index("class Pooled:")
    assert len([line for line in lines[start:] if line.strip()]) <= 20
