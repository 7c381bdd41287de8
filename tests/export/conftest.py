"""A trained and evaluated tiny run, shared by the tests of its export."""

import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from tiny_run import run_config, save_corpus, save_towers, stage

from otreg.cli import main


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A run of two stages, the second of them LoRA, with its results.json."""
    root = tmp_path_factory.mktemp("export")
    towers = save_towers(root / "towers")
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
