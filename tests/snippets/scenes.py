"""The scene of each page: files in a scratch folder, and names that its snippets use as given.

Every scene has the recordings, tiny towers in towers/ and under the names of the Hub that pages use, so that
`openai/whisper-small` is a folder. What a page needs besides is added by the function that names it here.
"""

from __future__ import annotations

import json
import shutil
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import soundfile
import torch
from tiny_run import WORDS
from torch import nn

from snippets.shelf import CTC, ENCODERS, LANGUAGE_MODELS, TEXT_MODEL, Shelf


@dataclass
class Scene:
    """A page's scratch folder and the names of its snippets.

    Attributes:
        folder: the current directory of its snippets.
        shelf: what it is made of.
        names: of Python's snippets, which share them in the order of the page.
        around: what holds while they run, such as a server.
    """

    folder: Path
    shelf: Shelf
    names: dict[str, Any] = field(default_factory=dict)
    around: list[AbstractContextManager[Any]] = field(default_factory=list)

    def put(self, name: str, what: Path) -> None:
        """A copy of a folder or file under a name."""
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if what.is_dir() else shutil.copy
        copy(what, target)

    def family(self, name: str, checkpoint: str) -> None:
        """A tiny model of a family in place of a checkpoint, and audio."""
        from families_at_hand import ALL

        self.put(checkpoint, self.shelf.family(name))
        if name in PATCHED:
            self.names["patched"] = (ALL[name], self.folder / checkpoint)


# Loaded as tests/integrations does: their processors need packages that have no build beside a CPU torch.
PATCHED = {
    *("fun_asr_nano", "granite_speech", "gemma3n", "gemma4", "phi4_multimodal"),
    *("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker"),
}


def readme(scene: Scene) -> None:
    """A language model and an adapter's output; a speech language model, its processor and a batch."""
    loop(scene)
    problems(scene)
    attached(scene)
    scene.names["samples"] = scene.shelf.samples


def loop(scene: Scene) -> None:
    """What a training loop has at hand, of two utterances."""
    language_model = nn.Module()
    embedding = nn.Embedding(40, 8)
    language_model.get_input_embeddings = lambda: embedding
    ids = torch.randint(1, 40, (2, 5))
    scene.names |= {
        "language_model": language_model,
        "speech": torch.randn(2, 9, 8, requires_grad=True),
        "ids": ids,
        "speech_mask": torch.arange(9) < torch.tensor([[9], [6]]),
        "ids_mask": torch.arange(5) < torch.tensor([[5], [3]]),
        "cross_entropy": torch.tensor(1.0),
        "lengths": torch.tensor([9, 6]),
        "labels": torch.cat([torch.full((2, 3), -100), ids], 1),
    }


def refused(scene: Scene) -> None:
    """A loop with a tokenizer."""
    from transformers import AutoTokenizer

    loop(scene)
    folder = scene.shelf.towers / "language_model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = scene.names["ids"].clamp(min=4)  # no special tokens
    labels = torch.cat([torch.full((2, 3), -100), ids], 1)
    scene.names |= {"tokenizer": tokenizer, "ids": ids, "labels": labels}


def problems(scene: Scene) -> None:
    """A batch of two transport problems."""
    scene.names |= {
        "torch": torch,
        "x": torch.randn(2, 7, 4, requires_grad=True),
        "y": torch.randn(2, 3, 4),
        "a": torch.full((2, 7), 1 / 7),
        "b": torch.full((2, 3), 1 / 3),
    }


def attached(scene: Scene) -> None:
    """Qwen2-Audio, its processor and a batch."""
    from families.base import TEXTS, waveforms
    from families_at_hand import ALL

    scene.family("qwen2_audio", "Qwen/Qwen2-Audio-7B-Instruct")
    family = ALL["qwen2_audio"]
    model, processor = family.load(scene.folder / "Qwen/Qwen2-Audio-7B-Instruct")
    batch = family.batch(processor, waveforms(1.3, 0.8), TEXTS[:2])
    scene.names |= {"model": model, "processor": processor, "batch": batch, "batches": [batch]}
    scene.names["samples"] = scene.shelf.samples


def family_page(scene: Scene, *, name: str, checkpoint: str) -> None:
    """A family's tiny model in place of the checkpoint."""
    scene.family(name, checkpoint)
    scene.names["samples"] = scene.shelf.samples


def trained(scene: Scene, *runs: str) -> None:
    """Runs that are trained, the first of them loaded, too."""
    from otreg.model.loading import load_model

    for run in runs:
        scene.put(run, scene.shelf.run)
    model, processor = load_model(scene.folder / runs[0])
    scene.names |= {"model": model, "processor": processor, "samples": scene.shelf.samples}


def evaluation(scene: Scene) -> None:
    """Two models by name."""
    trained(scene, "runs/otreg")
    scene.names["models"] = {"base": scene.names["model"], "otreg": scene.names["model"]}


def data(scene: Scene) -> None:
    """A run, and tar shards."""
    trained(scene, "runs/mine")
    (scene.folder / "shards").mkdir()
    rows = [json.loads(line) for line in (scene.folder / "train.jsonl").read_text().splitlines()]
    with tarfile.open(scene.folder / "shards" / "train-000.tar", "w") as shard:
        for row in rows:
            told = scene.folder / "told.json"
            told.write_text(json.dumps({"text": row["text"], "language": row["language"]}))
            shard.add(scene.folder / row["audio"], f"{row['id']}.wav")
            shard.add(told, f"{row['id']}.json")
            told.unlink()


def hub(scene: Scene) -> None:
    """A run, and what is on the Hub once it is pushed."""
    from otreg.export import export_model

    scene.put("runs/digits", scene.shelf.run)
    export_model(scene.folder / "runs/digits", scene.folder / "me/digits", licence="apache-2.0")
    scene.names["samples"] = scene.shelf.samples
    code = str(scene.folder / "code")  # not the user's cache
    scene.around.append(mock.patch("transformers.dynamic_module_utils.HF_MODULES_CACHE", code))


def serving(scene: Scene) -> None:
    """A server of a run, and clients that find it."""
    scene.put("runs/mine", scene.shelf.run)
    soundfile.write(scene.folder / "speech.mp3", scene.shelf.samples, 16_000)
    scene.around.append(served(scene.folder / "runs" / "mine"))


@contextmanager
def served(run: Path) -> Iterator[None]:
    """A server at a free port; OpenAI's client asks it in place of the port that pages name."""
    import openai

    from otreg.model.loading import load_model
    from otreg.serving.recognizer import Recognizer
    from otreg.serving.server import Server

    def load() -> Recognizer:
        return Recognizer(*load_model(run), max_new_tokens=8, max_duration_s=600.0)

    clients = []

    def client(*, base_url: str, **options: Any) -> openai.OpenAI:
        assert base_url == "http://127.0.0.1:8000/v1"
        clients.append(made(base_url=f"{server.url}/v1", **options))
        return clients[-1]

    made = openai.OpenAI
    server = Server(load, model=run.name, port=0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        end = time.monotonic() + 60
        while server.batcher.state != "ready":
            assert time.monotonic() < end, "the model was not loaded in time"
            time.sleep(0.01)
        with mock.patch.object(openai, "OpenAI", client):
            yield
    finally:
        for one in clients:
            one.close()
        server.stop()
        thread.join(20)


def transcription(scene: Scene) -> None:
    """A model whose encoder takes 30 s, as Whisper's does, and longer recordings."""
    from otreg.model.loading import load_model

    scene.put("RUN", scene.shelf.long_model)
    model, processor = load_model(scene.folder / "RUN")
    scene.names |= {"model": model, "processor": processor}
    samples, _ = talk(scene, min_s=22.0)
    for suffix in ("mp3", "flac"):
        soundfile.write(scene.folder / f"talk.{suffix}", samples, 16_000)


def talk(scene: Scene, *, min_s: float) -> tuple[np.ndarray, str]:
    """The recordings one after the other, again and again: samples, and what is said."""
    lines = (scene.folder / "train.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    parts: list[np.ndarray] = []
    said: list[str] = []
    while sum(map(len, parts)) < 16_000 * min_s:
        row = rows[len(parts) % len(rows)]
        samples, _ = soundfile.read(scene.folder / row["audio"], dtype="float32")
        parts.append(samples)
        said.append(row["text"])
    return np.concatenate(parts), " ".join(said)


def prepare(scene: Scene) -> None:
    """A run, a talk of more than 20 s, texts of the web with scores, a recipe."""
    samples, said = talk(scene, min_s=25.0)
    soundfile.write(scene.folder / "talk.wav", samples, 16_000)
    row = {"id": "talk", "audio": "talk.wav", "text": said, "language": "en"}
    (scene.folder / "talks.jsonl").write_text(json.dumps(row) + "\n")
    trained(scene, "runs/mine")
    scene.put(CTC, scene.shelf.ctc)
    scene.put(TEXT_MODEL, scene.shelf.text_model)
    texts = [f"{a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS]
    (scene.folder / "web.txt").write_text("\n".join(texts + texts[:24]) + "\n")
    score = '{{"id": "web:{}", "misalignment": {}, "positions": 10}}\n'
    lines = (score.format(number, number % 7 + 1) for number in range(1, 1000, 10))
    (scene.folder / "scores.jsonl").write_text("".join(lines))


def samples(scene: Scene) -> None:
    """A second of audio."""
    scene.names["samples"] = scene.shelf.samples


def a_recipe(scene: Scene) -> None:
    """mine.yaml, as the page about training from parts has it."""
    (scene.folder / "mine.yaml").write_text(
        "inherits: paper\n"
        "model: {audio_tower: openai/whisper-small, language_model: Qwen/Qwen2.5-0.5B-Instruct}\n"
        "data: {train: [train.jsonl]}\n"
    )


def interleaving(scene: Scene) -> None:
    """A CTC model, and texts of more words than a spoken span has."""
    scene.put(CTC, scene.shelf.ctc)
    path = scene.folder / "train.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    long = [json.dumps(row) + "\n" for row in rows if len(row["text"].split()) > 2]
    path.write_text("".join(long))


def runs(*names: str) -> Callable[[Scene], None]:
    """A scene of trained runs."""
    return lambda scene: trained(scene, *names)


SCENES: dict[str, Callable[[Scene], None]] = {
    "README.md": readme,
    "docs/attach.md": attached,
    "docs/data.md": data,
    "docs/evaluation.md": evaluation,
    "docs/hub.md": hub,
    "docs/model.md": samples,
    "docs/prepare.md": prepare,
    "docs/quickstart.md": samples,
    "docs/recipes/evaluate.md": runs("runs/otreg"),
    "docs/recipes/go-on.md": a_recipe,
    "docs/recipes/interleaving.md": interleaving,
    "docs/recipes/report.md": runs("runs/base", "runs/otreg"),
    "docs/serving.md": serving,
    "docs/transcription.md": transcription,
    "docs/transport.md": problems,
    "docs/families/refused.md": refused,
}
"""Pages whose snippets use more than recordings and towers."""

CHECKPOINTS = {
    "audioflamingo3": "nvidia/audio-flamingo-3-hf",
    "fun_asr_nano": "FunAudioLLM/Fun-ASR-Nano-2512-hf",
    "gemma3n": "google/gemma-3n-E4B",
    "gemma4": "google/gemma-4-e2b-it",
    "glmasr": "zai-org/GLM-ASR-Nano-2512",
    "granite_speech": "ibm-granite/granite-speech-3.3-2b",
    "phi4_multimodal": "microsoft/Phi-4-multimodal-instruct",
    "qwen2_5_omni_thinker": "models/qwen2.5-omni-thinker",
    "qwen2_audio": "Qwen/Qwen2-Audio-7B-Instruct",
    "qwen3_asr": "Qwen/Qwen3-ASR-1.7B-hf",
    "qwen3_omni_moe_thinker": "models/qwen3-omni-thinker",
    "remote_code": "models/ultravox",
    "voxtral": "mistralai/Voxtral-Mini-3B-2507",
}
for _name, _checkpoint in CHECKPOINTS.items():
    SCENES[f"docs/families/{_name}.md"] = partial(family_page, name=_name, checkpoint=_checkpoint)


def build(page: str, folder: Path, shelf: Shelf) -> Scene:
    """The scene of a page in an empty folder."""
    shutil.copytree(shelf.recordings, folder, dirs_exist_ok=True)
    scene = Scene(folder, shelf)
    if page not in OWN_TOWERS:
        scene.put("towers", shelf.towers)
    for names, tower in ((ENCODERS, "audio_tower"), (LANGUAGE_MODELS, "language_model")):
        for name in names:
            scene.put(name, shelf.towers / tower)
    if page in SCENES:
        SCENES[page](scene)
    return scene


OWN_TOWERS = {"docs/quickstart.md"}
"""Pages that make towers/ themselves."""
