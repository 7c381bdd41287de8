"""`prepare encoder-states`: the cache that training asks for, from a run or from a tower alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from tiny_run import save_corpus, save_towers

from otreg.cli import main
from otreg.data.dataset import SpeechTextDataset
from otreg.model import SpeechLMForConditionalGeneration, SpeechLMProcessor
from otreg.prepare.encoder_source import load_encoder
from otreg.prepare.encoder_states import build_encoder_cache, encoder_fingerprint


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """towers/, a model of them in run/model, and a manifest."""
    root = tmp_path_factory.mktemp("states")
    towers = save_towers(root / "towers")
    model = SpeechLMForConditionalGeneration.from_towers(*map(str, towers), adapter_stack=3)
    processor = SpeechLMProcessor.from_config(model.config, str(towers[0]), str(towers[1]))
    model.save_pretrained(root / "run" / "model")
    processor.save_pretrained(root / "run" / "model")
    save_corpus(root / "corpus", num_utterances=4)
    return root


@pytest.mark.parametrize("source", ["run", "run/model", "towers/audio_tower"])
def test_the_cache_is_the_one_that_training_builds(place: Path, tmp_path: Path, source) -> None:
    manifest = place / "corpus" / "manifest.jsonl"
    cache = tmp_path / "cache"
    command = ["prepare", "encoder-states", str(manifest), "--out", str(cache)]
    assert main([*command, "--model", str(place / source), "--quiet"]) == 0
    model = SpeechLMForConditionalGeneration.from_pretrained(place / "run" / "model")
    processor = SpeechLMProcessor.from_pretrained(place / "run" / "model")
    states = sorted(str(path) for path in cache.rglob("*.safetensors"))
    assert states
    dataset = SpeechTextDataset([manifest], processor)
    built = build_encoder_cache(model, dataset, cache)
    assert sorted(str(path) for path in cache.rglob("*.safetensors")) == states  # nothing anew
    features = torch.from_numpy(dataset[1]["input_features"][0])[None]
    with torch.no_grad():
        mask = torch.ones(features.shape[:2], dtype=torch.bool)
        encoded = model.eval().encode(features, mask).encoder_hidden_states[0]
    held, _ = built.get(dataset.clips()[1])
    assert torch.allclose(held, encoded, atol=1e-5)
    made = json.loads((tmp_path / "cache.provenance.json").read_text())
    assert made["counts"] == {"rows": 4, "clips": 4, "held": 4}
    assert made["settings"]["encoder"] == encoder_fingerprint(model, processor)


def test_what_is_no_encoder_is_refused(place: Path, tmp_path: Path, capsys) -> None:
    with pytest.raises(ValueError, match="give a run, a model folder, or the folder or Hub id"):
        load_encoder(tmp_path)
    (tmp_path / "file").write_text("")
    manifest = place / "corpus" / "manifest.jsonl"
    command = ["prepare", "encoder-states", str(manifest), "--out", str(tmp_path / "file")]
    assert main([*command, "--model", str(place / "run")]) == 2
    assert "is a file; name a folder" in capsys.readouterr().err
