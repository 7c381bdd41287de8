"""A tiny random model on disk, and real servers of it on free ports."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest
import soundfile
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "model"))

from serving_tools import MAX_NEW_TOKENS, ended, started, wait_until
from tiny_towers import make_audio, save_audio_tower, save_language_model

from otreg.model import SpeechLMForConditionalGeneration, SpeechLMProcessor
from otreg.model.loading import load_model
from otreg.serving.recognizer import Recognizer
from otreg.serving.server import Server

Start = Callable[..., Server]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose encoder takes 2 s, as `save_pretrained` writes it."""
    root = tmp_path_factory.mktemp("served")
    audio = save_audio_tower("whisper-short", root / "audio_tower")
    text = save_language_model("qwen2", root / "language_model")
    torch.manual_seed(1)
    model = SpeechLMForConditionalGeneration.from_towers(
        audio, text, adapter_type="conv", short_mel=True
    )
    model.save_pretrained(root / "tiny")
    SpeechLMProcessor.from_config(model.config, audio, text).save_pretrained(root / "tiny")
    return root / "tiny"


@pytest.fixture(scope="session")
def load(model_folder: Path) -> Callable[[], Recognizer]:
    """What a server loads its model by."""

    def loaded() -> Recognizer:
        model, processor = load_model(str(model_folder))
        return Recognizer(model, processor, max_new_tokens=MAX_NEW_TOKENS, max_duration_s=600.0)

    return loaded


@pytest.fixture
def start(load: Callable[[], Recognizer]) -> Iterator[Start]:
    """Start a server that listens; by default of the tiny model, which may still be loading."""
    servers: list[tuple[Server, threading.Thread]] = []
    yield lambda model=load, **options: started(servers, model, **options)
    ended(servers)


@pytest.fixture(scope="module")
def server(load: Callable[[], Recognizer]) -> Iterator[Server]:
    """One server of the tiny model with the defaults, ready."""
    servers: list[tuple[Server, threading.Thread]] = []
    made = started(servers, load)
    wait_until(lambda: made.batcher.state == "ready")
    yield made
    ended(servers)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    """The OpenAI client of that server."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Fifty short wav files that differ."""
    folder = tmp_path_factory.mktemp("recordings")
    durations = [0.3 + 0.03 * number for number in range(50)]
    paths = []
    for number, samples in enumerate(make_audio(*durations)):
        paths.append(folder / f"{number}.wav")
        soundfile.write(paths[-1], samples, 16_000)
    return paths
