"""A trained and evaluated tiny run, shared by the tests of its export."""

import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM
from transformers.models.whisper.modeling_whisper import WhisperEncoder

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from tiny_run import run_config, save_corpus, save_towers, stage

from otreg.cli import main


def enlarge(model, folder):
    """Large random weights, so that what is written depends on the speech."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.4)
    model.save_pretrained(folder)


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A run of two stages, the second of them LoRA, with its results.json."""
    root = tmp_path_factory.mktemp("export")
    towers = save_towers(root / "towers")
    for kind, tower in zip((WhisperEncoder, AutoModelForCausalLM), towers, strict=True):
        enlarge(kind.from_pretrained(tower), tower)
    train = save_corpus(root / "digits")
    save_corpus(root / "unheard", num_utterances=3, seed=1)
    stages = [
        stage("align", objectives={"otreg": {"weight": 0.3, "options": {"vocabulary": "all"}}}),
        stage("tune", train=["adapter", "lora"], gradient_accumulation_steps=2),
    ]
    config = run_config(towers, train, stages, lora={"r": 2})
    (root / "recipe.yaml").write_text(yaml.safe_dump(config))
    folder = root / "runs" / "mine-seed1"
    assert main(["train", str(root / "recipe.yaml"), "--out", str(folder), "--quiet"]) == 0
    data = [f"--data=heard={train}", f"--data=unheard={root / 'unheard/manifest.jsonl'}"]
    options = ["--in-domain=heard", "--max-new-tokens=5", "--normalizer=whisper"]
    assert main(["evaluate", str(folder), *data, *options]) == 0
    return folder
