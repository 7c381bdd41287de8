"""Decoding: a batch decodes as single utterances do, for every encoder, LM and compression."""

import pytest
import torch
from tiny_towers import ENCODERS, LANGUAGE_MODELS, TEXTS, make_audio

CLIPS = make_audio(1.9, 0.45, 1.2)


def _assert_batch_is_single(model, processor, **options):
    options = {"max_new_tokens": 8, **options}
    batch = processor(CLIPS)
    out = model.generate(**batch, **options)
    start = batch["input_ids"].shape[1]
    assert torch.equal(out[:, :start], batch["input_ids"])
    new = out[:, start:]
    seen = set()
    for clip, row in zip(CLIPS, new.tolist(), strict=True):
        single = processor([clip])
        alone = model.generate(**single, **options)[0, single["input_ids"].shape[1] :].tolist()
        padded = alone + [processor.pad_token_id] * (len(row) - len(alone))
        assert row == padded
        seen.add(tuple(row))
    assert len(seen) > 1  # the speech matters, so that equality says something


@pytest.mark.parametrize("encoder", ENCODERS)
def test_batched_decoding_is_single_decoding_for_each_encoder(build, encoder):
    _assert_batch_is_single(*build(encoder, "qwen2"))


@pytest.mark.parametrize("language_model", LANGUAGE_MODELS)
def test_batched_decoding_is_single_decoding_for_each_language_model(build, language_model):
    _assert_batch_is_single(*build("whisper-short", language_model))


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("adapter_type", ["stack_mlp", "conv"])
def test_batched_decoding_is_single_decoding_for_each_adapter(build, adapter_type, chat):
    _assert_batch_is_single(*build(adapter_type=adapter_type, chat=chat))


@torch.no_grad()
def _with_compression(build, language_model="qwen2", **options):
    """A model whose thresholds lie in the middle of its own cosines, so that some frames go."""
    from otreg.model.compression import cosine_to_pad
    from otreg.transport import cosine_similarity

    model, processor = build(language_model=language_model, **options)
    batch = processor(CLIPS)
    speech = model.get_audio_features(batch["input_features"], batch["input_features_mask"])
    frames = speech.pooler_output
    model.config.merge_threshold = float(
        cosine_similarity(frames[1:], frames[:-1]).diagonal().median()
    )
    model.config.drop_threshold = float(cosine_to_pad(frames, model.pad_embedding()).median())
    return model, processor


@pytest.mark.parametrize("language_model", ["qwen2", "gpt2", "opt"])
def test_batched_decoding_is_single_decoding_under_compression(build, language_model):
    model, processor = _with_compression(build, language_model, snap=0.5)
    _assert_batch_is_single(model, processor)


def test_frames_are_dropped_for_real_even_if_the_model_is_in_training_mode(build):
    model, processor = _with_compression(build)
    batch = processor(CLIPS)
    expected = model.generate(**batch, max_new_tokens=8)
    assert torch.equal(model.train().generate(**batch, max_new_tokens=8), expected)


@torch.no_grad()
def test_compression_really_shortens_what_the_language_model_sees(build):
    model, processor = _with_compression(build)
    batch = processor(CLIPS, TEXTS[:3])
    logits = model(**batch).logits
    assert logits.shape[1] < batch["input_ids"].shape[1]
    model.config.merge_threshold = model.config.drop_threshold = None
    assert model(**batch).logits.shape[1] == batch["input_ids"].shape[1]


def test_padding_on_the_right_decodes_the_same(build):
    model, processor = build()
    left = processor(CLIPS, padding_side="left")
    right = processor(CLIPS, padding_side="right")
    a = model.generate(**left, max_new_tokens=8)
    b = model.generate(**right, max_new_tokens=8)
    assert torch.equal(a, b)


def test_cached_encoder_states_decode_the_same(build):
    model, processor = build()
    batch = processor(CLIPS)
    expected = model.generate(**batch, max_new_tokens=8)
    states = model.encode(batch.pop("input_features"), batch.pop("input_features_mask"))
    assert torch.equal(model.generate(**batch, **states, max_new_tokens=8), expected)


@torch.no_grad()
def test_the_cache_gives_what_decoding_without_a_cache_gives(build):
    model, processor = build()
    batch = processor(CLIPS)
    cached = model.generate(**batch, max_new_tokens=8)[:, batch["input_ids"].shape[1] :]
    ids, mask = batch["input_ids"], batch["attention_mask"]
    for step in range(8):
        audio = {k: batch[k] for k in ("input_features", "input_features_mask")}
        logits = model(input_ids=ids, attention_mask=mask, **audio).logits[:, -1]
        best = logits.argmax(-1, keepdim=True)
        going = ~(cached[:, :step] == processor.eos_token_id).any(1)
        assert torch.equal(best[going, 0], cached[going, step])
        ids = torch.cat([ids, cached[:, step : step + 1]], 1)
        mask = torch.cat([mask, torch.ones_like(best)], 1)


def test_beam_search_returns_as_many_sequences_as_asked(build):
    model, processor = build()
    batch = processor(CLIPS)
    out = model.generate(**batch, max_new_tokens=6, num_beams=3, num_return_sequences=2)
    assert len(out) == 2 * len(CLIPS)
    expected = batch["input_ids"].repeat_interleave(2, dim=0)
    assert torch.equal(out[:, : batch["input_ids"].shape[1]], expected)


def test_a_dictionary_output_holds_the_same_sequences(build):
    model, processor = build()
    batch = processor(CLIPS)
    ids = model.generate(**batch, max_new_tokens=6)
    out = model.generate(
        **batch, max_new_tokens=6, return_dict_in_generate=True, output_scores=True
    )
    assert torch.equal(out.sequences, ids)
    assert len(out.scores) == 6


def test_decoding_is_greedy_whatever_the_language_model_was_saved_with(build, towers, tmp_path):
    import shutil

    from transformers import GenerationConfig

    from otreg.model import SpeechLMForConditionalGeneration

    folder = shutil.copytree(towers("qwen2"), tmp_path / "sampling")
    GenerationConfig(do_sample=True, temperature=5.0, eos_token_id=[2, 7]).save_pretrained(folder)
    model = SpeechLMForConditionalGeneration.from_towers(towers("whisper"), folder)
    _, processor = build("whisper", adapter_type="stack_mlp")
    batch = processor(CLIPS)
    first = model.generate(**batch, max_new_tokens=8)
    assert torch.equal(model.generate(**batch, max_new_tokens=8), first)
    assert model.generation_config.eos_token_id == [2, 7]


def test_a_training_batch_is_refused(build):
    model, processor = build()
    with pytest.raises(ValueError, match="collate with training=False"):
        model.generate(**processor(CLIPS, TEXTS[:3]))


def test_decoded_text_leaves_placeholders_and_special_tokens_out(build):
    _, processor = build()
    batch = processor(CLIPS, TEXTS[:3])
    assert processor.batch_decode(batch["input_ids"]) == TEXTS[:3]
