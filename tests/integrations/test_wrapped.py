"""`attach` on a 4-bit base with LoRA, and on a compiled model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from families.base import TEXTS, waveforms
from families_at_hand import ALL, DURATIONS_S
from peft import LoraConfig, get_peft_model
from transformers import BitsAndBytesConfig

from otreg import OTReg, attach
from otreg.integrations import load

COMPILED = """
import sys, tempfile, warnings
from pathlib import Path

sys.path.insert(0, sys.argv[1])
warnings.simplefilter("ignore")
import torch
from families.base import TEXTS, waveforms
from families_at_hand import ALL, DURATIONS_S, steady

from otreg import OTReg, attach

torch.set_num_threads(1)
family, folder = ALL["qwen2_audio"], Path(tempfile.mkdtemp())
family.save(folder)
model, processor = family.load(folder)
batch = family.batch(processor, waveforms(*DURATIONS_S), TEXTS)
steady(model)

def gradients(function):
    model.zero_grad()
    loss = function(**batch).loss
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

plain, _ = gradients(model)
handle = attach(model, OTReg(), weight=0.3, seed=1)
expected, expected_gradients = gradients(model)
handle.detach()
assert expected > plain
for order in ("attached first", "compiled first"):
    if order == "attached first":
        handle = attach(model, OTReg(), weight=0.3, seed=1)
        compiled = torch.compile(model, backend="eager")
    else:
        compiled = torch.compile(model, backend="eager")
        handle = attach(compiled, OTReg(), weight=0.3, seed=1)
    loss, found = gradients(compiled)
    handle.detach()
    torch._dynamo.reset()
    torch.testing.assert_close(loss, expected)
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-3)
"""


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft 0.21 asks by an old name
def test_a_4_bit_base_trains_by_lora_and_its_projector(tmp_path: Path) -> None:
    """QLoRA: the language model in 4 bits, encoder and projector as they are."""
    ALL["qwen2_audio"].save(tmp_path)
    whole = ["model.audio_tower", "model.multi_modal_projector", "multi_modal_projector", "lm_head"]
    quantised = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32, llm_int8_skip_modules=whole
    )
    base, processor = load(tmp_path, quantization_config=quantised)
    narrow = [name for name, m in base.named_modules() if type(m).__name__ == "Linear4bit"]
    assert narrow
    assert all("language_model" in name for name in narrow)
    lora = LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], modules_to_save=["multi_modal_projector"]
    )
    model = get_peft_model(base, lora)
    model.train()
    batch = ALL["qwen2_audio"].batch(processor, waveforms(*DURATIONS_S), TEXTS)
    plain = model(**batch).loss
    handle = attach(model, OTReg(), weight=0.3)
    loss = model(**batch).loss
    loss.backward()
    handle.detach()
    assert loss.item() == pytest.approx(plain.item() + handle.loss.item(), rel=1e-5)
    reached = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert any("multi_modal_projector" in name for name in reached)
    assert any("language_model" in name and "lora" in name for name in reached)
    assert not any("embed_tokens" in name for name in reached)


@pytest.mark.slow
def test_a_compiled_model_gives_the_eager_loss_and_gradients() -> None:
    """In a process of its own: the shape checks that conftest.py adds are not for graphs."""
    command = [sys.executable, "-c", COMPILED, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
