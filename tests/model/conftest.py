import pytest
from tiny_towers import save_audio_tower, save_language_model

from otreg.model import SpeechLMForConditionalGeneration, SpeechLMProcessor


@pytest.fixture(scope="session")
def towers(tmp_path_factory):
    """Path of a tiny tower by kind, saved once per session."""
    root = tmp_path_factory.mktemp("towers")
    made = {}

    def get(kind, *, chat=False):
        key = (kind, chat)
        if key not in made:
            from tiny_towers import ENCODERS

            folder = root / f"{kind}-{chat}"
            is_encoder = kind in ENCODERS
            made[key] = (
                save_audio_tower(kind, folder)
                if is_encoder
                else save_language_model(kind, folder, chat=chat)
            )
        return made[key]

    return get


@pytest.fixture
def build(towers):
    """Build (model, processor) from the kinds of tower."""

    def make(encoder="whisper-short", language_model="qwen2", *, chat=False, **options):
        import torch

        torch.manual_seed(1)
        options.setdefault("adapter_type", "conv")
        options.setdefault("short_mel", encoder == "whisper-short")
        audio, text = towers(encoder), towers(language_model, chat=chat)
        model = SpeechLMForConditionalGeneration.from_towers(audio, text, **options)
        return model, SpeechLMProcessor.from_config(model.config, audio, text)

    return make
