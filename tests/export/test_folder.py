"""The exported folder: loads with otreg and without it, says what it is, and holds nothing else."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor
from transformers.dynamic_module_utils import get_imports, get_relative_import_files

from otreg.cli import main
from otreg.export import code_files, export_model
from otreg.export.code import ENTRY, required_packages
from otreg.model.loading import load_model

SAMPLES = (0.1 * np.random.default_rng(0).standard_normal(16_000)).astype(np.float32)


def generated(model, processor, samples=SAMPLES):
    batch = processor(audio=[samples])
    return model.generate(**batch, max_new_tokens=8)[0, batch["input_ids"].shape[1] :].tolist()


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    return export_model(run, tmp_path_factory.mktemp("out") / "model", licence="apache-2.0")


@pytest.fixture(scope="module")
def expected(run):
    return generated(*load_model(str(run)))


def test_with_otreg_the_auto_classes_load_it(folder, expected):
    model = AutoModelForMultimodalLM.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    assert type(model).__module__ == "otreg.model.modeling"
    assert generated(model, processor) == expected
    assert len(set(expected)) > 3
    assert generated(model, processor, np.zeros_like(SAMPLES)) != expected


def test_the_cards_snippet_transcribes(folder, expected, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    card = (folder / "README.md").read_text(encoding="utf-8")
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1)
    exec(snippet.replace("max_new_tokens=200", "max_new_tokens=8"), {"samples": SAMPLES})
    processor = load_model(str(folder))[1]
    assert capsys.readouterr().out.strip() == repr([processor.decode(expected)])


WITHOUT_OTREG = """
import json, sys
sys.modules["otreg"] = None  # an import of it now fails
import numpy as np
from transformers import AutoConfig, AutoModelForMultimodalLM, AutoProcessor, pipeline

folder, clip, again = sys.argv[1:]
samples = (0.1 * np.random.default_rng(0).standard_normal(16_000)).astype(np.float32)

def generated(path):
    model = AutoModelForMultimodalLM.from_pretrained(path, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(path, trust_remote_code=True)
    batch = processor(audio=[samples])
    ids = model.generate(**batch, max_new_tokens=8)[0, batch["input_ids"].shape[1]:].tolist()
    return model, processor, ids

model, processor, ids = generated(folder)
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
pipe = pipeline("any-to-any", model=folder, trust_remote_code=True)
asked = [{"role": "user", "content": [{"type": "audio", "audio": clip}]}]
said = pipe(text=asked, return_full_text=False, max_new_tokens=8)[0]["generated_text"]
model.save_pretrained(again)
processor.save_pretrained(again)
print(json.dumps({
    "ids": ids, "said": said, "text": processor.decode(ids), "again": generated(again)[2],
    "same config": type(config) is type(model.config), "module": type(model).__module__,
    "loaded": sorted(name for name in sys.modules if name.split(".")[0] == "otreg"),
}))
"""


def test_without_otreg_its_own_code_generates_the_same(folder, expected, tmp_path):
    import soundfile

    soundfile.write(tmp_path / "clip.wav", SAMPLES, 16_000, subtype="FLOAT")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_OTREG, folder, tmp_path / "clip.wav", tmp_path / "again"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])
    assert told["ids"] == told["again"] == expected
    assert told["said"] == told["text"]
    assert told["loaded"] == ["otreg"]  # the None that stands in its place
    assert told["same config"]
    assert told["module"].startswith("transformers_modules.")


def test_every_file_of_code_is_found_by_transformers_and_needs_what_the_card_says(folder):
    entry = folder / f"{ENTRY}.py"
    found = {entry.name} | {os.path.basename(name) for name in get_relative_import_files(entry)}
    assert found == set(code_files()) == {path.name for path in folder.glob("*.py")}
    needed = {name for path in folder.glob("*.py") for name in get_imports(path)}
    outside = sorted(needed - set(sys.stdlib_module_names))
    assert outside == required_packages(code_files())
    # transformers refuses the folder where one of these is missing, so a further one is a cost.
    assert outside == ["numpy", "peft", "soundfile", "soxr", "torch", "transformers"]
    assert f"`pip install {' '.join(outside)}`" in (folder / "README.md").read_text()


def test_lora_is_merged_and_nothing_but_the_model_is_there(run, folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    assert config["lora"] is None
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".py", ".md", ".safetensors"}
    checkpoint = run / "stage-tune" / "checkpoint-2"  # with LoRA, optimizer and all
    assert (checkpoint / "optimizer.pt").is_file()
    for path in (run / "model").iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            (checkpoint / path.name).write_bytes(path.read_bytes())
    assert json.loads((checkpoint / "config.json").read_text())["lora"] is not None
    again = export_model(checkpoint, tmp_path / "again")
    assert {path.name for path in again.iterdir()} == {path.name for path in folder.iterdir()}
    mine, theirs = load_model(str(again))[0].state_dict(), load_model(str(run))[0].state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.allclose(mine[name], theirs[name], atol=1e-6) for name in mine)


def test_no_file_tells_where_the_model_was_trained(run, folder):
    place = str(run.parents[1])
    texts = [path for path in folder.iterdir() if path.suffix in (".json", ".py", ".md")]
    assert texts
    assert [path.name for path in texts if place in path.read_text()] == []


def test_a_folder_that_holds_something_is_left_alone(run, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"expected a new or empty folder to export to"):
        export_model(run, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_failed_export_leaves_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setattr("otreg.export.folder.auto_map", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_model(run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--license", "Apache 2"], "expected one of the Hub's licence identifiers"),
        (["--push", "me/model"], "expected a licence for a model that is pushed"),
        (["--push", "a/b/c", "--license", "mit"], "expected OWNER/NAME to push to"),
        (["--private"], "--private says how to push"),
        (["--results", "none.json"], "found no file at none.json"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_line(run, tmp_path, capsys, arguments, match):
    assert main(["export", str(run), "--out", str(tmp_path / "out"), *arguments]) == 2
    assert re.search(match, capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []
