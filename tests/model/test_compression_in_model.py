"""Compression and snap inside the model: training is soft, inference is real, both agree."""

import math

import pytest
import torch
from tiny_towers import LANGUAGE_MODELS, TEXTS, make_audio

import otreg.model.base
from otreg.model import set_trainable
from otreg.model.compression import cosine_to_pad, keep_log_weight

CLIPS = make_audio(1.7, 0.5, 1.1)


@torch.no_grad()
def _median_drop(model, processor):
    """A threshold with half of the frames on either side and none near it."""
    batch = processor(CLIPS)
    frames = model.get_audio_features(batch["input_features"], batch["input_features_mask"])
    cosines = cosine_to_pad(frames.pooler_output, model.pad_embedding()).sort().values
    middle = slice(len(cosines) // 3, 2 * len(cosines) // 3)
    widest = int(cosines.diff()[middle].argmax()) + middle.start
    return float(cosines[widest : widest + 2].mean())


@pytest.mark.parametrize("language_model", ["qwen2", "qwen3", "llama", "gpt2", "gemma2", "opt"])
def test_soft_dropping_that_drops_nothing_changes_nothing(build, language_model):
    model, processor = build(language_model=language_model)
    set_trainable(model, ["adapter"])
    model.train()
    batch = processor(CLIPS, TEXTS[:3])
    expected = model(**batch)
    model.config.drop_threshold, model.config.drop_temperature = 1.0, 1e-3
    got = model(**batch)
    keep = batch["attention_mask"].bool()
    torch.testing.assert_close(got.logits[keep], expected.logits[keep], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got.loss, expected.loss)


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_soft_dropping_hides_exactly_what_real_dropping_removes(build, padding_side):
    """With positions that do not matter to the scores, cold soft dropping is real dropping."""
    model, processor = build(language_model="gpt2")
    with torch.no_grad():
        model.language_model.transformer.wpe.weight.zero_()
    set_trainable(model, ["adapter"])
    model.config.drop_threshold = _median_drop(model, processor)
    model.config.drop_temperature = 1e-5
    batch = processor(CLIPS, TEXTS[:3], padding_side=padding_side)
    soft = model.train()(**batch)
    real = model.eval()(**batch)
    assert real.logits.shape[1] < soft.logits.shape[1]
    torch.testing.assert_close(soft.loss, real.loss, atol=1e-3, rtol=1e-3)


def test_the_gradient_of_soft_dropping_is_that_of_finite_differences(build, monkeypatch):
    model, processor = build()
    set_trainable(model, ["adapter"])
    model.train()
    model.config.drop_threshold = _median_drop(model, processor)
    model.config.drop_temperature = 0.2
    batch = processor(CLIPS, TEXTS[:3])
    weight = model.multi_modal_projector.output.weight

    def gradient():
        return torch.autograd.grad(model(**batch).loss, weight)[0]

    exact = gradient()
    monkeypatch.setattr(
        otreg.model.base, "keep_log_weight", lambda *args: keep_log_weight(*args).detach()
    )
    detached = gradient()
    monkeypatch.undo()
    direction = (exact - detached) / (exact - detached).norm()  # where the weight matters most
    step = 2e-3

    def loss_at(sign):
        with torch.no_grad():
            weight.add_(sign * step * direction)
            loss = float(model(**batch).loss)
            weight.sub_(sign * step * direction)
        return loss

    slope = (loss_at(1) - loss_at(-1)) / (2 * step)
    assert slope == pytest.approx(float((exact * direction).sum()), rel=0.03)
    assert slope != pytest.approx(float((detached * direction).sum()), rel=0.1)


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_soft_dropping_is_finite_in_half_precision(build, dtype, padding_side):
    model, processor = build()
    set_trainable(model, ["adapter"])
    model.train()
    model.config.drop_threshold = _median_drop(model, processor)
    batch = processor(CLIPS, TEXTS[:3], padding_side=padding_side)
    full = model(**batch)
    with torch.autocast("cpu", dtype=dtype):
        half = model(**batch)
    half.loss.backward()
    torch.testing.assert_close(half.loss, full.loss, atol=0.2, rtol=0.05)
    assert torch.isfinite(half.logits).all()
    assert all(torch.isfinite(p.grad).all() for p in model.multi_modal_projector.parameters())


def test_soft_dropping_is_refused_where_attention_takes_no_bias(build):
    model, processor = build(drop_threshold=0.5)
    model.train()
    model.language_model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="attn_implementation='sdpa'"):
        model(**processor(CLIPS, TEXTS[:3]))


def test_soft_dropping_is_refused_beyond_what_an_additive_mask_can_do(build):
    model, processor = build(language_model="bloom", drop_threshold=0.5)
    with pytest.raises(ValueError, match="BloomForCausalLM has other layers or ALiBi"):
        model.train()(**processor(CLIPS, TEXTS[:3]))
    model, processor = build(language_model="gemma2", drop_threshold=0.5)
    model.language_model.config.sliding_window = 8
    with pytest.raises(ValueError, match=r"up to the sliding window of 8 tokens; got \d+"):
        model.train()(**processor(CLIPS, TEXTS[:3]))


def test_merging_is_the_same_in_training_and_evaluation(build):
    model, processor = build(merge_threshold=-1.0)
    batch = processor(CLIPS, TEXTS[:3])
    frames = (batch["input_ids"] == processor.audio_token_id).sum(1)
    evaluation = model.eval()(**batch)
    training = model.train()(**batch)
    assert evaluation.speech_mask.sum(1).tolist() == ((frames + 1) // 2).tolist()
    torch.testing.assert_close(training.logits, evaluation.logits)


@torch.no_grad()
def test_merging_gives_what_a_prompt_of_merged_frames_gives(build):
    model, processor = build(merge_threshold=-1.0)
    batch = processor(CLIPS[:1], TEXTS[:1])
    out = model(**batch)
    ids = batch["input_ids"][0]
    speech = out.speech_embeds[0]
    embed = model.get_input_embeddings()
    start = int((ids == processor.audio_token_id).nonzero()[0])
    rest = ids[start:][ids[start:] != processor.audio_token_id]
    embeds = torch.cat([embed(ids[:start]), speech, embed(rest)])[None]
    expected = model.language_model(inputs_embeds=embeds).logits
    torch.testing.assert_close(out.logits, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_loss_after_compression_is_that_of_each_row_alone(build):
    model, processor = build(merge_threshold=0.5)
    model.config.drop_threshold = _median_drop(model, processor)
    total, count = 0.0, 0
    for clip, text in zip(CLIPS, TEXTS, strict=False):
        single = processor([clip], [text])
        n = int((single["labels"] != -100).sum())
        total, count = total + n * model(**single).loss, count + n
    for side in ("left", "right"):
        batch = processor(CLIPS, TEXTS[:3], padding_side=side)
        torch.testing.assert_close(model(**batch).loss, total / count, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("language_model", LANGUAGE_MODELS)
@torch.no_grad()
def test_dropping_every_frame_leaves_the_prompt(build, language_model):
    model, processor = build(language_model=language_model, drop_threshold=-1.0)
    batch = processor(CLIPS, TEXTS[:3])
    out = model(**batch)
    assert torch.isfinite(out.loss)
    assert out.speech_mask.any(1).all()
    assert model.generate(**processor(CLIPS), max_new_tokens=3).shape[0] == 3


@torch.no_grad()
def test_snap_enters_the_language_model_but_not_the_objectives(build):
    model, processor = build()
    batch = processor(CLIPS, TEXTS[:3])
    plain = model(**batch)
    model.config.snap = 0.8
    snapped = model(**batch)
    assert torch.equal(plain.speech_embeds, snapped.speech_embeds)
    assert not torch.allclose(plain.logits, snapped.logits)
    model.config.snap = 0.0
    assert torch.equal(model(**batch).logits, plain.logits)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("adapter_type", "linear", "adapter_type must be one of stack_mlp, conv; got 'linear'"),
        ("adapter_stack", 0, "adapter_stack must be >= 1; got 0"),
        ("adapter_kernel", 4, "adapter_kernel must be odd; got 4"),
        ("adapter_dropout", 1.0, r"adapter_dropout must be in \[0, 1\); got 1.0"),
        ("snap", 1.2, r"snap must be in \[0, 1\]; got 1.2"),
        ("merge_threshold", 2.0, r"merge_threshold must be None or in \[-1, 1\]"),
        ("drop_temperature", 0.0, "drop_temperature must be > 0"),
        ("drop_temperature", math.inf, "drop_temperature must be > 0 and finite; got inf"),
        ("snap_temperature", math.inf, "snap_temperature must be > 0 and finite; got inf"),
        ("adapter_output_norm", math.inf, "adapter_output_norm must be > 0 and finite; got inf"),
    ],
)
def test_an_option_out_of_range_is_refused(towers, option, value, message):
    from transformers import AutoConfig

    from otreg.model import SpeechLMConfig

    configs = {
        "audio_config": AutoConfig.from_pretrained(towers("hubert")),
        "text_config": AutoConfig.from_pretrained(towers("qwen2")),
    }
    with pytest.raises(ValueError, match=message):
        SpeechLMConfig(**configs, **{option: value})
    with pytest.raises(ValueError, match="short_mel is for Whisper"):
        SpeechLMConfig(**configs, short_mel=True)
