"""`otreg miniature` as a process: bars of ours on stderr, none of transformers', paths on stdout."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from otreg.data.manifest import Utterance, write_manifest

# The command has no option for the towers' sizes: the process makes them tiny before it starts.
CODE = """
import sys
from functools import partial
from otreg.synthetic import towers
towers.MiniatureSettings = partial(
    towers.MiniatureSettings, hidden_size=16, encoder_layers=1, num_mels=16, encoder_epochs=2,
    language_model_layers=1, vocab_size=40, language_model_steps=12, encoder_batch_size=2)
from otreg.cli import main
sys.exit(main(["miniature", *sys.argv[1:]]))
"""


@pytest.mark.slow
def test_both_towers_have_a_bar_that_reaches_its_end(tmp_path: Path) -> None:
    utterances = []
    for number in range(4):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, 0.1 * np.random.default_rng(number).standard_normal(16000), 16000)
        utterances.append(Utterance(str(number), path, "rojo azul", "es"))
    write_manifest(tmp_path / "m.jsonl", utterances)
    arguments = [str(tmp_path / "m.jsonl"), "--out", str(tmp_path / "towers")]
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"model\.audio_tower=.*\nmodel\.language_model=.*\n", done.stdout)
    assert re.search(r"audio tower: 100%.* 4/4 ", done.stderr)
    assert re.search(r"language model: 100%.* 12/12 ", done.stderr)
    assert "Writing model shards" not in done.stderr
    assert "Loading weights" not in done.stderr
    lines = [line.strip() for line in re.split(r"[\r\n]", done.stderr) if line.strip()]
    assert all(line.startswith(("audio tower:", "language model:")) for line in lines), done.stderr
