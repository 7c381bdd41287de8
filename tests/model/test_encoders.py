"""Encoders: Whisper equals the official path; the frame plan is right; no utterance hears another."""

import numpy as np
import pytest
import torch
from tiny_towers import ENCODERS, make_audio
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from otreg.model.encoders import is_batch_invariant, run_encoder
from otreg.model.features import check_samples, extract_features, num_feature_frames
from otreg.model.frames import WHISPER_PLAN, apply_frame_plan, encoder_frame_plan


@pytest.fixture(scope="module")
def whisper():
    """The real extractor (80 mels, 30 s) on an encoder of the real shape but 16 wide."""
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=32
    )
    return WhisperFeatureExtractor(), WhisperEncoder(config).eval()


def _loud_then_quiet():
    clip = make_audio(2.3)[0]
    clip[20_000:] *= 1e-4
    return clip


@pytest.mark.parametrize(
    "clip",
    [
        *make_audio(0.1, 1.0, 3.3371),
        _loud_then_quiet(),
        np.zeros(8000, dtype=np.float32),
        make_audio(29.99)[0],
        make_audio(30.0)[0],
    ],
    ids=["100ms", "1s", "3.3s", "loud-quiet", "zeros", "29.99s", "30s"],
)
@torch.no_grad()
def test_whisper_hears_what_the_official_30_s_features_hold(whisper, clip):
    extractor, encoder = whisper
    official = extractor(clip, sampling_rate=16_000, return_tensors="pt")["input_features"]
    features = torch.from_numpy(extract_features(extractor, clip))
    length = len(features)
    assert length == min(3000, -(-(len(clip) + 200) // 160))
    torch.testing.assert_close(features.T, official[0, :, :length], atol=1e-6, rtol=0)
    seen = {}
    handle = encoder.register_forward_pre_hook(lambda _, args: seen.update(mel=args[0]))
    mask = torch.ones(1, length, dtype=torch.bool)
    hidden, _ = run_encoder(encoder, encoder.config, WHISPER_PLAN, features[None], mask)
    handle.remove()
    torch.testing.assert_close(seen["mel"], official, atol=1e-6, rtol=0)
    expected = encoder(official).last_hidden_state[:, : hidden.shape[1]]
    torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_whispers_padding_never_leaves_the_encoder(whisper):
    extractor, encoder = whisper
    features = torch.from_numpy(extract_features(extractor, make_audio(1.0)[0]))[None]
    mask = torch.ones(features.shape[:2], dtype=torch.bool)
    hidden, encoder_mask = run_encoder(encoder, encoder.config, WHISPER_PLAN, features, mask)
    assert hidden.shape[1] == encoder_mask.sum() == (features.shape[1] - 1) // 2 + 1
    assert hidden.shape[1] < 60  # of the 1500 frames of 30 s


@torch.no_grad()
def test_short_mel_at_full_length_is_whisper_itself(whisper):
    extractor, encoder = whisper
    features = torch.from_numpy(extract_features(extractor, make_audio(30.0)[0]))[None]
    mask = torch.ones(features.shape[:2], dtype=torch.bool)
    args = (encoder, encoder.config, WHISPER_PLAN, features, mask)
    short, _ = run_encoder(*args, short_mel=True)
    torch.testing.assert_close(short, run_encoder(*args)[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_short_mel_does_not_hear_what_follows_the_utterance(whisper):
    extractor, encoder = whisper
    # 103 frames: an odd number, so that the second convolution reaches over the end
    features = torch.from_numpy(extract_features(extractor, make_audio(1.01)[0]))[None]
    mask = torch.ones(features.shape[:2], dtype=torch.bool)
    args = (encoder, encoder.config, WHISPER_PLAN)
    alone, _ = run_encoder(*args, features, mask, short_mel=True)
    loud = torch.cat([features, torch.full((1, 57, 80), 9.0)], 1)
    longer = torch.cat([mask, torch.zeros(1, 57, dtype=torch.bool)], 1)
    other = torch.randn(1, loud.shape[1], 80)
    both = torch.cat([loud, other])
    masks = torch.cat([longer, torch.ones_like(longer)])
    hidden, encoder_mask = run_encoder(*args, both, masks, short_mel=True)
    torch.testing.assert_close(hidden[0][encoder_mask[0]], alone[0], atol=1e-5, rtol=1e-5)


def test_audio_longer_than_whisper_takes_is_refused(whisper):
    extractor, _ = whisper
    with pytest.raises(ValueError, match=r"lasts 30\.50 s; this encoder takes at most 30 s"):
        extract_features(extractor, np.zeros(488_000, dtype=np.float32))
    with pytest.raises(ValueError, match="Cut it into segments"):
        num_feature_frames(extractor, 488_000)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((2, 100), dtype=np.float32), r"got shape \(2, 100\)"),
        (np.zeros(0, dtype=np.float32), r"got shape \(0,\)"),
        (np.zeros((2, 100)), r"axis 0 holds channels, average them: samples\.mean\(axis=0\)"),
        (np.zeros((100, 2)), r"axis 1 holds channels, average them: samples\.mean\(axis=1\)"),
        (np.zeros((1, 1, 9)), r"got shape \(1, 1, 9\)$"),
        (np.array([0.0, np.nan], dtype=np.float32), "NaN or infinite"),
        (np.array([0.0, 1e300]), "NaN or infinite"),
        (np.ones(400, dtype=np.int16), r"got int16; divide by full scale \(32768 for 16 bit\)"),
        (np.ones(400, dtype=np.uint8), "got uint8"),
        ([1, 2, 3], "got int64"),
        (np.ones(400, dtype=bool), "got bool"),
        (np.full(400, 3000, dtype=np.int16).astype(np.float32), r"in \[-1, 1\], got 3000; divide"),
    ],
)
def test_bad_audio_is_refused(whisper, samples, message):
    with pytest.raises(ValueError, match=message):
        extract_features(whisper[0], samples)


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_the_floating_type_of_samples_does_not_change_the_features(towers, kind, dtype):
    extractor = AutoFeatureExtractor.from_pretrained(towers(kind))
    samples = make_audio(0.5)[0].astype(np.float16)
    given, expected = samples.astype(dtype), samples.astype(np.float32)
    np.testing.assert_array_equal(
        extract_features(extractor, given), extract_features(extractor, expected)
    )
    assert extract_features(extractor, given).dtype == np.float32


def test_speech_louder_than_full_scale_is_taken_as_it_is(whisper):
    loud = 2.5 * make_audio(0.5)[0] / np.abs(make_audio(0.5)[0]).max()
    np.testing.assert_array_equal(check_samples(loud), loud)
    assert np.isfinite(extract_features(whisper[0], loud)).all()


@pytest.mark.parametrize("kind", [k for k in ENCODERS if not k.startswith("whisper")])
@torch.no_grad()
def test_the_frame_plan_counts_what_the_encoder_makes(towers, kind):
    tower = AutoModel.from_pretrained(towers(kind))
    plan = encoder_frame_plan(tower.config)
    wave = kind != "wav2vec2-bert"
    for length in (3211, 3840, 5000) if wave else (9, 20, 33):
        features = torch.randn(1, length) if wave else torch.randn(1, length, 160)
        made = tower(features).last_hidden_state.shape[1]
        assert made == apply_frame_plan(length, plan)
        assert made == apply_frame_plan(torch.tensor([length]), plan).item()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("wav2vec2", True),
        ("wav2vec2-group", False),
        ("wav2vec2-adapter", False),
        ("hubert", True),
        ("hubert-group", False),
        ("wavlm", True),
        ("wav2vec2-bert", True),
    ],
)
def test_encoders_that_hear_padding_run_one_at_a_time(towers, kind, expected):
    assert is_batch_invariant(AutoConfig.from_pretrained(towers(kind))) is expected


def test_an_encoder_without_a_known_plan_asks_for_one():
    config = AutoConfig.for_model("bert", hidden_size=16)
    with pytest.raises(ValueError, match=r"'bert' encoder is not known; pass encoder_frame_plan="):
        encoder_frame_plan(config)


@torch.no_grad()
def test_a_wrong_plan_is_noticed(towers):
    tower = AutoModel.from_pretrained(towers("hubert-group"))
    mask = torch.ones(1, 4000, dtype=torch.bool)
    with pytest.raises(ValueError, match="the encoder made 12 frames of 4000"):
        run_encoder(tower, tower.config, [(10, 10, 0)], torch.randn(1, 4000), mask)


@torch.no_grad()
def test_an_utterance_too_short_for_the_encoder_is_refused(towers):
    tower = AutoModel.from_pretrained(towers("hubert"))
    plan = encoder_frame_plan(tower.config)
    mask = torch.ones(1, 100, dtype=torch.bool)
    with pytest.raises(ValueError, match="100 feature frames is too short"):
        run_encoder(tower, tower.config, plan, torch.randn(1, 100), mask)
