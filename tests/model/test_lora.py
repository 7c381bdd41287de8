"""LoRA: it starts as the identity, is saved, trains alone, and merges without a trace."""

import pytest
import torch
from tiny_towers import LANGUAGE_MODELS, TEXTS, make_audio

from otreg.model import SpeechLMForConditionalGeneration, set_trainable
from otreg.model.lora import lora_parameters

CLIPS = make_audio(0.9, 0.5)


def _randomise(model):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in lora_parameters(model.language_model):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("language_model", LANGUAGE_MODELS)
@torch.no_grad()
def test_lora_starts_as_the_identity_and_merges_without_changing_the_logits(build, language_model):
    model, processor = build(language_model=language_model)
    names = list(model.state_dict())
    batch = processor(CLIPS, TEXTS[:2])
    before = model(**batch).logits
    model.add_lora(r=2, alpha=8)
    assert torch.equal(model(**batch).logits, before)
    _randomise(model)
    adapted = model(**batch).logits
    assert not torch.allclose(adapted, before, atol=1e-3)
    model.merge_lora()
    torch.testing.assert_close(model(**batch).logits, adapted, atol=5e-4, rtol=1e-4)
    assert list(model.state_dict()) == names
    assert model.config.lora is None
    assert not lora_parameters(model.language_model)


@torch.no_grad()
def test_a_model_with_lora_is_saved_and_loaded_to_difference_0(build, tmp_path):
    model, processor = build()
    model.add_lora(r=2, alpha=8, target_modules=["q_proj", "up_proj"])
    _randomise(model)
    batch = processor(CLIPS, TEXTS[:2])
    expected = model(**batch).logits
    model.save_pretrained(tmp_path / "with")
    loaded = SpeechLMForConditionalGeneration.from_pretrained(tmp_path / "with")
    assert float((loaded(**batch).logits - expected).abs().max()) == 0.0
    loaded.merge_lora()
    merged = loaded(**batch).logits
    loaded.save_pretrained(tmp_path / "merged")
    again = SpeechLMForConditionalGeneration.from_pretrained(tmp_path / "merged")
    assert again.config.lora is None
    assert float((again(**batch).logits - merged).abs().max()) == 0.0


def test_a_model_built_from_a_configuration_with_lora_starts_as_the_identity(build):
    model, _ = build()
    model.add_lora(r=2)
    fresh = SpeechLMForConditionalGeneration(model.config)
    assert all(
        not parameter.any()
        for name, parameter in fresh.language_model.named_parameters()
        if "lora_B" in name
    )


def test_lora_trains_alone(build):
    model, processor = build()
    model.add_lora(r=2)
    count = set_trainable(model, ["lora", "adapter"])
    model.train()
    model(**processor(CLIPS, TEXTS[:2])).loss.backward()
    with_gradient = [name for name, p in model.named_parameters() if p.grad is not None]
    assert all("lora_" in n or n.startswith("multi_modal_projector") for n in with_gradient)
    assert any("lora_" in n for n in with_gradient)
    assert count == sum(p.numel() for p in model.parameters() if p.requires_grad)
    with pytest.raises(ValueError, match="exclude each other"):
        set_trainable(model, ["lora", "language_model"])
    set_trainable(model, ["adapter"])
    assert not any(p.requires_grad for p in model.language_model.parameters())


def test_generation_works_with_lora(build):
    model, processor = build()
    model.add_lora(r=2)
    _randomise(model)
    batch = processor(CLIPS)
    adapted = model.generate(**batch, max_new_tokens=6)
    model.merge_lora()
    assert torch.equal(model.generate(**batch, max_new_tokens=6), adapted)


def test_bad_lora_options_are_refused(build):
    model, _ = build()
    with pytest.raises(ValueError, match="rank r of LoRA must be >= 1; got 0"):
        model.add_lora(r=0)
    with pytest.raises(ValueError, match="nonsense"):
        model.add_lora(target_modules=["nonsense"])
    assert model.config.lora is None
    model.add_lora()
    with pytest.raises(ValueError, match=r"has LoRA already; call merge_lora\(\) first"):
        model.add_lora()
