"""The whole model: every encoder with every language model, forward, save, load, train mode."""

import numpy as np
import pytest
import torch
from tiny_towers import ENCODERS, LANGUAGE_MODELS, TEXTS, make_audio
from transformers import (
    AutoConfig,
    AutoModelForMultimodalLM,
    AutoProcessor,
    WhisperFeatureExtractor,
)

import otreg.model
from otreg.model import (
    SpeechLMConfig,
    SpeechLMForConditionalGeneration,
    SpeechLMProcessor,
    set_trainable,
)

CLIPS = make_audio(1.7, 0.51, 1.1)  # of Whisper 172, 53 and 112 frames: even and odd


def _single(processor, i):
    return processor([CLIPS[i]], [TEXTS[i]])


def _assert_batch_is_single(model, processor, atol=2e-5):
    batch = model(**processor(CLIPS, TEXTS[:3]))
    mask = processor(CLIPS, TEXTS[:3])["attention_mask"].bool()
    for i in range(3):
        alone = model(**_single(processor, i))
        together = batch.speech_embeds[i][batch.speech_mask[i]]
        torch.testing.assert_close(together, alone.speech_embeds[0], atol=atol, rtol=1e-4)
        logits = batch.logits[i][mask[i]] if mask.shape[1] == batch.logits.shape[1] else None
        if logits is not None:
            torch.testing.assert_close(logits, alone.logits[0], atol=10 * atol, rtol=1e-3)


@pytest.mark.parametrize("encoder", ENCODERS)
@torch.no_grad()
def test_a_batch_gives_each_encoder_what_single_utterances_give(build, encoder):
    model, processor = build(encoder)
    _assert_batch_is_single(model, processor)


@pytest.mark.parametrize("language_model", LANGUAGE_MODELS)
@torch.no_grad()
def test_a_batch_gives_each_language_model_what_single_utterances_give(build, language_model):
    model, processor = build(language_model=language_model)
    _assert_batch_is_single(model, processor)


@pytest.mark.parametrize("language_model", LANGUAGE_MODELS)
@torch.no_grad()
def test_the_padding_side_does_not_change_the_loss(build, language_model):
    model, processor = build(language_model=language_model)
    right = model(**processor(CLIPS, TEXTS[:3], padding_side="right")).loss
    left = model(**processor(CLIPS, TEXTS[:3], padding_side="left")).loss
    torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("encoder", ENCODERS)
@torch.no_grad()
def test_nan_in_padded_features_changes_nothing(build, encoder):
    model, processor = build(encoder)
    batch = processor(CLIPS, TEXTS[:3])
    expected = model(**batch)
    batch["input_features"][~batch["input_features_mask"]] = float("nan")
    got = model(**batch)
    assert torch.equal(got.logits, expected.logits)
    assert torch.equal(got.speech_embeds, expected.speech_embeds)


@pytest.mark.parametrize("encoder", ENCODERS)
@torch.no_grad()
def test_cached_encoder_states_give_what_the_audio_gives(build, encoder):
    model, processor = build(encoder)
    batch = processor(CLIPS, TEXTS[:3])
    expected = model(**batch).logits
    states = model.encode(batch.pop("input_features"), batch.pop("input_features_mask"))
    assert torch.equal(model(**batch, **states).logits, expected)
    states.encoder_hidden_states[~states.encoder_mask] = float("nan")
    assert torch.equal(model(**batch, **states).logits, expected)


@pytest.mark.parametrize("encoder", ENCODERS)
@torch.no_grad()
def test_the_processor_counts_the_frames_that_the_model_makes(build, encoder):
    model, processor = build(encoder, adapter_stack=3)
    clips = make_audio(0.31, 0.333, 0.5, 0.517, 0.9, 1.23, 1.999)
    batch = processor(clips)
    features = model.get_audio_features(batch["input_features"], batch["input_features_mask"])
    frames = (batch["input_ids"] == model.config.audio_token_id).sum(1)
    assert features.speech_mask.sum(1).tolist() == frames.tolist()
    states = model.encode(batch["input_features"], batch["input_features_mask"])
    from_encoder = processor.num_speech_frames_from_encoder(states.encoder_mask.sum(1))
    assert from_encoder.tolist() == frames.tolist()
    for clip, length in zip(clips, batch["input_features_mask"].sum(1), strict=True):
        assert processor.feature_length(len(clip)) == int(length)


@pytest.mark.parametrize("adapter_type", ["stack_mlp", "conv"])
@pytest.mark.parametrize("language_model", ["qwen2", "llama"])
@torch.no_grad()
def test_saving_and_loading_changes_nothing(build, tmp_path, adapter_type, language_model):
    model, processor = build(language_model=language_model, adapter_type=adapter_type)
    batch = processor(CLIPS, TEXTS[:3])
    expected = model(**batch).logits
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = AutoModelForMultimodalLM.from_pretrained(tmp_path)
    assert isinstance(loaded, SpeechLMForConditionalGeneration)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), SpeechLMConfig)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(again, SpeechLMProcessor)
    assert again.to_dict() == processor.to_dict()
    reloaded = again(CLIPS, TEXTS[:3])
    assert all(torch.equal(reloaded[key], batch[key]) for key in batch)
    assert float((loaded(**reloaded).logits - expected).abs().max()) == 0.0
    assert loaded.generation_config.do_sample is False
    assert {p.name for p in tmp_path.glob("*.safetensors")} == {"model.safetensors"}
    assert not list(tmp_path.glob("*.bin"))


@torch.no_grad()
def test_from_towers_keeps_the_pretrained_weights(build, towers):
    from transformers import AutoModelForCausalLM, WhisperModel

    model, _ = build("whisper", "gpt2")
    encoder = WhisperModel.from_pretrained(towers("whisper")).get_encoder()
    language_model = AutoModelForCausalLM.from_pretrained(towers("gpt2"))
    for name, value in encoder.state_dict().items():
        assert torch.equal(model.audio_tower.state_dict()[name], value)
    for name, value in language_model.state_dict().items():
        assert torch.equal(model.language_model.state_dict()[name], value)


def test_from_towers_takes_modules_and_leaves_their_attention_alone(build):
    donor, processor = build()
    model = SpeechLMForConditionalGeneration.from_towers(
        donor.audio_tower, donor.language_model, adapter_type="conv", short_mel=True
    )
    assert model.language_model.config._attn_implementation == "sdpa"
    assert model.audio_tower is donor.audio_tower
    assert torch.isfinite(model(**processor(CLIPS, TEXTS[:3])).loss)


def test_from_towers_refuses_a_checkpoint_that_lacks_weights(towers, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(towers("hubert"), tmp_path / "hubert")
    weights = load_file(folder / "model.safetensors")
    weights.pop("encoder.layers.1.attention.q_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"no whole checkpoint of HubertModel.*q_proj"):
        SpeechLMForConditionalGeneration.from_towers(folder, towers("qwen2"))


def test_an_encoder_trained_at_true_lengths_is_run_so(towers, tmp_path):
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    encoder = WhisperEncoder.from_pretrained(towers("whisper-short"))
    encoder.config.short_mel = True
    encoder.save_pretrained(tmp_path)
    model = SpeechLMForConditionalGeneration.from_towers(tmp_path, towers("qwen2"))
    assert model.config.short_mel
    model = SpeechLMForConditionalGeneration.from_towers(tmp_path, towers("qwen2"), short_mel=False)
    assert not model.config.short_mel


def test_frames_cannot_be_dropped_by_a_pad_embedding_of_zeros(towers, tmp_path):
    from transformers import AutoModelForCausalLM

    language_model = AutoModelForCausalLM.from_pretrained(towers("qwen2"))
    with torch.no_grad():
        language_model.get_input_embeddings().weight[0] = 0
    with pytest.raises(ValueError, match="embedding of pad_token_id 0 is zero"):
        SpeechLMForConditionalGeneration.from_towers(
            towers("whisper"), language_model, drop_threshold=0.5, pad_token_id=0, eos_token_id=2
        )


def test_an_extractor_with_a_hop_alone_is_no_whisper(towers):
    from otreg.model.features import is_whisper

    whisper = WhisperFeatureExtractor()
    assert is_whisper(whisper)
    del whisper.nb_max_frames
    assert hasattr(whisper, "hop_length")
    assert not is_whisper(whisper)


def test_from_towers_refuses_an_unknown_option(towers):
    with pytest.raises(
        ValueError, match="unknown option 'adaptor_type'; did you mean 'adapter_type'"
    ):
        SpeechLMForConditionalGeneration.from_towers(
            towers("whisper"), towers("qwen2"), adaptor_type="conv"
        )


@pytest.mark.parametrize("adapter_type", ["stack_mlp", "conv"])
@torch.no_grad()
def test_the_adapter_starts_at_the_norm_of_the_token_embeddings(build, adapter_type):
    model, processor = build(adapter_type=adapter_type)
    batch = processor(CLIPS)
    features = model.get_audio_features(batch["input_features"], batch["input_features_mask"])
    norm = features.pooler_output.norm(dim=1).mean()
    target = model.get_input_embeddings().weight.norm(dim=1).median()
    assert 0.7 < float(norm / target) < 1.3


@torch.no_grad()
def test_pooler_output_holds_the_real_frames_in_order(build):
    model, processor = build()
    batch = processor(CLIPS)
    features = model.get_audio_features(batch["input_features"], batch["input_features_mask"])
    assert torch.equal(features.pooler_output, features.speech_embeds[features.speech_mask])
    assert not features.speech_embeds[~features.speech_mask].any()


def test_a_wrong_number_of_placeholders_is_refused(build):
    model, processor = build()
    batch = processor(CLIPS[:2], TEXTS[:2])
    frames = int((batch["input_ids"][0] == processor.audio_token_id).sum())
    batch["input_ids"][0, int(batch["clips"][0, 1])] = 5
    with pytest.raises(
        ValueError, match=rf"row 0 has {frames - 1} audio placeholders.*{frames} speech"
    ):
        model(**batch)


def test_placeholders_without_audio_are_refused(build):
    model, processor = build()
    ids = processor(CLIPS[:1])["input_ids"]
    with pytest.raises(ValueError, match="there is no audio"):
        model(input_ids=ids)
    with pytest.raises(ValueError, match="expected either input_features or encoder_hidden_states"):
        model.get_audio_features()


def test_features_longer_than_whisper_takes_are_refused(build):
    model, _ = build("whisper")
    features = torch.zeros(1, 201, 20)
    with pytest.raises(ValueError, match=r"at most 200 feature frames; got 201"):
        model.encode(features, torch.ones(1, 201, dtype=torch.bool))


def test_left_padded_features_are_refused(build):
    model, _ = build()
    mask = torch.tensor([[False, True, True], [True, True, True]])
    with pytest.raises(ValueError, match="right padding"):
        model.encode(torch.zeros(2, 3, 20), mask)


@torch.no_grad()
def test_text_alone_gives_the_language_models_own_logits(build):
    model, processor = build()
    ids = processor.tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    expected = model.language_model(input_ids=ids).logits
    torch.testing.assert_close(model(input_ids=ids).logits, expected)


@torch.no_grad()
def test_the_loss_is_summed_over_num_items_in_batch(build):
    model, processor = build()
    batch = processor(CLIPS, TEXTS[:3])
    count = int((batch["labels"] != -100).sum())
    mean = model(**batch).loss
    torch.testing.assert_close(model(**batch, num_items_in_batch=count).loss, mean)
    torch.testing.assert_close(model(**batch, num_items_in_batch=2 * count).loss, mean / 2)
    assert model.accepts_loss_kwargs


@torch.no_grad()
def test_the_loss_is_the_mean_cross_entropy_of_transcript_and_eos(build):
    model, processor = build()
    batch = processor(CLIPS[:1], TEXTS[:1])
    out = model(**batch)
    tokens = processor.tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"]
    target = torch.tensor([*tokens, processor.eos_token_id])
    log_probs = out.logits[0, -len(target) - 1 : -1].log_softmax(-1)
    expected = -log_probs[torch.arange(len(target)), target].mean()
    torch.testing.assert_close(out.loss, expected)


@pytest.mark.parametrize("group", ["adapter", "audio_tower", "language_model"])
def test_only_the_named_group_trains(build, group):
    model, processor = build("whisper-short")
    count = set_trainable(model, [group])
    model.train()
    model(**processor(CLIPS, TEXTS[:3])).loss.backward()
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {"multi_modal_projector" if group == "adapter" else group}
    assert count == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_frozen_towers_stay_in_evaluation_mode(build):
    model, _ = build()
    set_trainable(model, ["adapter"])
    model.train()
    assert model.training
    assert model.multi_modal_projector.training
    assert not model.audio_tower.training
    assert not model.language_model.training
    set_trainable(model, ["audio_tower", "language_model"])
    assert model.audio_tower.training
    assert model.language_model.training
    assert not model.multi_modal_projector.training


def test_an_unknown_group_is_refused(build):
    model, _ = build()
    with pytest.raises(ValueError, match=r"cannot train 'adaptor'; did you mean 'adapter'"):
        set_trainable(model, ["adaptor"])
    with pytest.raises(ValueError, match=r"call model\.add_lora"):
        set_trainable(model, ["lora"])


@torch.no_grad()
def test_half_precision_towers_make_a_half_precision_model(towers):
    model = SpeechLMForConditionalGeneration.from_towers(
        towers("whisper"), towers("qwen2"), dtype=torch.bfloat16
    )
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.config.dtype == torch.bfloat16
    processor = SpeechLMProcessor.from_config(model.config, towers("whisper"), towers("qwen2"))
    assert torch.isfinite(model(**processor(CLIPS, TEXTS[:3])).loss)


def test_the_auto_classes_know_the_model():
    assert AutoConfig.for_model("otreg_speech_lm").model_type == "otreg_speech_lm"
    assert otreg.model.SpeechLMForConditionalGeneration.config_class is SpeechLMConfig


@pytest.mark.filterwarnings("ignore:.*pin_memory.*")
def test_trainers_evaluation_gathers_logits_alone(build, tmp_path):
    from transformers import Trainer, TrainingArguments

    model, processor = build()
    rows = [processor([clip], [text]) for clip, text in zip(CLIPS, TEXTS, strict=False)]
    args = TrainingArguments(
        tmp_path,
        per_device_eval_batch_size=1,
        remove_unused_columns=False,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model, args, data_collator=lambda items: dict(items[0]))
    loss, logits, _ = trainer.prediction_step(model, dict(rows[0]), prediction_loss_only=False)
    assert logits.shape == (1, rows[0]["input_ids"].shape[1], 300)
    torch.testing.assert_close(loss, model(**rows[0]).loss.detach())


def test_a_seven_billion_parameter_model_can_be_described():
    from transformers import Qwen2Config, WhisperConfig

    audio = WhisperConfig(
        d_model=1280,
        encoder_layers=32,
        encoder_attention_heads=20,
        encoder_ffn_dim=5120,
        num_mel_bins=128,
    )
    text = Qwen2Config(
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        vocab_size=152064,
    )
    config = SpeechLMConfig(audio_config=audio, text_config=text, eos_token_id=1, pad_token_id=0)
    with torch.device("meta"):
        model = SpeechLMForConditionalGeneration(config)
    assert sum(p.numel() for p in model.parameters()) > 8e9
    assert model.multi_modal_projector.stack == 5


@torch.no_grad()
def test_gradient_reaches_only_real_frames(build):
    model, processor = build()
    batch = processor(CLIPS, TEXTS[:3])
    with torch.enable_grad():
        states = model.encode(batch.pop("input_features"), batch.pop("input_features_mask"))
        hidden = states.encoder_hidden_states.detach().requires_grad_()
        out = model(**batch, encoder_hidden_states=hidden, encoder_mask=states.encoder_mask)
        out.loss.backward()
    assert not hidden.grad[~states.encoder_mask].any()
    assert np.isfinite(hidden.grad.numpy()).all()
    assert hidden.grad[states.encoder_mask].abs().sum(-1).min() > 0
