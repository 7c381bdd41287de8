"""A model fine-tuned through attach() and saved is a stock checkpoint: other servers load it as such."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families.base import TEXTS, waveforms
from families_at_hand import DURATIONS_S, Load
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForMultimodalLM

from otreg import OTReg, attach

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)  # peft's
LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights="gaussian")
# The modules by which vLLM's Qwen2AudioForConditionalGeneration takes a checkpoint's weights.
VLLM_PREFIXES = (
    "audio_tower.layers.",
    "audio_tower.conv1.",
    "audio_tower.conv2.",
    "audio_tower.embed_positions.",
    "audio_tower.layer_norm.",
    "multi_modal_projector.linear.",
    "language_model.model.",
    "language_model.lm_head.",
)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@pytest.fixture(params=["whole", "attached", "lora"])
def saved(request: Any, load: Load, tmp_path: Path) -> tuple[Path, Path, Any, Any]:
    """A model's folder before and after training: all weights, still attached, or merged LoRA."""
    family, model, processor = load("qwen2_audio")
    stock, tuned = tmp_path / "stock", tmp_path / "tuned"
    model.save_pretrained(stock)
    processor.save_pretrained(stock)
    batch = family.batch(processor, waveforms(*DURATIONS_S), TEXTS)
    trained: Any = get_peft_model(model, LORA) if request.param == "lora" else model
    handle = attach(trained, OTReg(), weight=0.3, processor=processor)
    optimizer = torch.optim.SGD([p for p in trained.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        trained(**batch).loss.backward()
        optimizer.step()
    if request.param != "attached":
        handle.detach()
    if request.param == "lora":
        trained = trained.merge_and_unload()
    trained.save_pretrained(tuned)
    processor.save_pretrained(tuned)
    if request.param == "attached":
        handle.detach()
    prompt = family.prompt(processor, waveforms(0.8))
    return stock, tuned, trained.eval(), prompt


def test_files_keys_shapes_and_configuration_are_stock(saved) -> None:
    stock, tuned, _, _ = saved
    assert files(tuned) == files(stock)
    before, after = (load_file(folder / "model.safetensors") for folder in (stock, tuned))
    assert {key: (value.shape, value.dtype) for key, value in after.items()} == {
        key: (value.shape, value.dtype) for key, value in before.items()
    }
    assert any(not torch.equal(after[key], before[key]) for key in before)  # it has trained
    assert config(tuned) == config(stock)
    assert config(tuned)["architectures"] == ["Qwen2AudioForConditionalGeneration"]
    assert "auto_map" not in config(tuned)
    assert "otreg" not in (tuned / "config.json").read_text()


def test_every_key_has_a_module_in_vllm(saved) -> None:
    _, tuned, _, _ = saved
    keys = load_file(tuned / "model.safetensors").keys()
    assert [key for key in keys if not key.startswith(VLLM_PREFIXES)] == []


def test_the_stock_class_loads_it_and_says_the_same(saved) -> None:
    _, tuned, trained, prompt = saved
    loaded, info = AutoModelForMultimodalLM.from_pretrained(tuned, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        assert torch.equal(loaded.eval()(**prompt).logits, trained(**prompt).logits)
