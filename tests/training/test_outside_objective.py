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


def test_the_example_is_short():
    lines = (EXAMPLES / "outside_objective.py").read_text().splitlines()
    start = lines.index("class Pooled:")
    assert len([line for line in lines[start:] if line.strip()]) <= 20
