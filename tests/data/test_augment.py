"""Augmentation: it follows from (seed, epoch, clip) alone, and each change is what it says."""

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from otreg.data import (
    SpeechTextDataset,
    SpeechTextStream,
    Utterance,
    load_audio,
)
from otreg.data.augment import Augmentation, FeatureMasks
from otreg.data.sources import UtteranceStream
from otreg.prepare.encoder_states import build_encoder_cache


@pytest.fixture
def recordings(tmp_path):
    """Noise of two lengths, and an echo after 100 ms whose direct sound comes after 10 ms."""
    rng = np.random.default_rng(1)
    for name, length in (("short", 3000), ("long", 40000)):
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * rng.standard_normal(length), 16000)
    response = np.zeros(4000)
    response[160], response[1760] = 0.8, 0.4
    soundfile.write(tmp_path / "echo.wav", response, 16000, subtype="FLOAT")
    return {
        name: Utterance(name, tmp_path / f"{name}.wav", "x", "en")
        for name in ("short", "long", "echo")
    }


@pytest.fixture
def everything(recordings):
    return Augmentation(
        seed=5,
        speeds=(0.9, 1.0, 1.1),
        noise=(recordings["short"], recordings["long"]),
        noise_probability=0.7,
        reverberation=(recordings["echo"],),
        masks=FeatureMasks(time_mask_frames=5, band_mask_size=1),
    )


def speech(length=16000):
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(length) / 16000)).astype(np.float32)


def features(dataset, epoch, **options):
    dataset.set_epoch(epoch)
    loader = DataLoader(dataset, batch_size=None, **options)
    return {item["id"]: np.asarray(item["input_features"][0]) for item in loader}


def equal(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def test_it_follows_from_seed_epoch_and_clip_whatever_order_and_workers(
    corpus, processor, everything
):
    dataset = SpeechTextDataset(corpus, processor, augmentation=everything)
    first = features(dataset, 0)
    again = SpeechTextDataset(corpus[::-1], processor, augmentation=everything)
    assert equal(features(again, 0, num_workers=2), first)
    other = features(dataset, 1)
    assert all(not np.array_equal(first[key], other[key]) for key in first)
    assert equal(features(again, 1), other)
    plain = features(SpeechTextDataset(corpus, processor), 0)
    assert all(not np.array_equal(first[key], plain[key]) for key in first)


def test_workers_that_outlive_an_epoch_see_the_next(corpus, processor, everything):
    dataset = SpeechTextDataset(corpus, processor, augmentation=everything)
    expected = [features(dataset, epoch) for epoch in (0, 1)]
    loader = DataLoader(dataset, batch_size=None, num_workers=1, persistent_workers=True)
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        found = {item["id"]: np.asarray(item["input_features"][0]) for item in loader}
        assert equal(found, expected[epoch])


def test_a_stream_augments_as_a_data_set_does_and_anew_in_each_pass(corpus, processor, everything):
    class Listed(UtteranceStream):
        def shard(self, index):
            return iter(corpus)

    stream = SpeechTextStream(Listed("l", 1), processor, repeat=True, augmentation=everything)
    items = iter(stream)
    dataset = SpeechTextDataset(corpus, processor, augmentation=everything)
    for epoch in (0, 1):
        loaded = [next(items) for _ in corpus]
        found = {item["id"]: item["input_features"][0] for item in loaded}
        assert equal(found, features(dataset, epoch))


def test_speed_changes_length_and_pitch():
    fast = Augmentation(speeds=(1.25,)).samples(speech(), "u", 0)
    assert len(fast) == 12800
    spectrum = np.abs(np.fft.rfft(fast))
    assert spectrum.argmax() * 16000 / len(fast) == pytest.approx(550, abs=2)
    assert np.array_equal(Augmentation(speeds=(1.0,)).samples(speech(), "u", 0), speech())


@pytest.mark.parametrize("name", ["short", "long"])
def test_noise_has_the_ratio_asked_for(recordings, name):
    change = Augmentation(noise=(recordings[name],), noise_probability=1, noise_snr_db=(12, 12))
    noise = change.samples(speech(), "u", 0) - speech()
    ratio = np.square(speech()).mean() / np.square(noise).mean()
    assert 10 * np.log10(ratio) == pytest.approx(12, abs=0.01)
    pieces = load_audio(recordings[name])
    windows = np.lib.stride_tricks.sliding_window_view(pieces, 500)
    likeness = windows @ noise[:500] / np.linalg.norm(windows, axis=1) / np.linalg.norm(noise[:500])
    assert likeness.max() == pytest.approx(1, abs=1e-4)  # a piece of the recording, scaled


def test_reverberation_is_the_convolution_with_the_direct_sound_in_its_place(recordings):
    change = Augmentation(reverberation=(recordings["echo"],), reverberation_probability=1)
    samples = np.zeros(8000, dtype=np.float32)
    samples[1000] = 0.5
    found = change.samples(samples, "u", 0)
    assert np.abs(found).argmax() == 1000
    assert found[2600] / found[1000] == pytest.approx(0.5, rel=1e-4)
    assert np.square(found).sum() == pytest.approx(0.25, rel=1e-5)


def test_shares_are_those_asked_for(recordings):
    change = Augmentation(noise=(recordings["short"],), noise_probability=0.3)
    plain = speech(800)
    changed = [not np.array_equal(change.samples(plain, f"u{n}", 0), plain) for n in range(400)]
    assert np.mean(changed) == pytest.approx(0.3, abs=0.08)


def test_masks_are_whole_frames_and_bands_within_their_limits():
    masks = FeatureMasks(2, 100, 2, 3, max_time_share=0.1)
    rng = np.random.default_rng(0)
    values = rng.standard_normal((200, 20)).astype(np.float32) + 3
    for _ in range(50):
        masked = masks(values, rng)
        changed = masked != values
        assert np.allclose(masked[changed], values.mean())
        frames, bands = changed.all(axis=1), changed.all(axis=0)
        assert np.array_equal(changed, frames[:, None] | bands)
        assert frames.sum() <= 2 * 20
        assert bands.sum() <= 2 * 3
    assert FeatureMasks(0, 0, 0, 0)(values, rng) is not values
    np.testing.assert_array_equal(FeatureMasks(0, 0, 0, 0)(values, rng), values)


def test_lengths_are_those_of_the_slowest_speed(corpus, processor):
    plain = SpeechTextDataset(corpus, processor).lengths()
    change = Augmentation(speeds=(0.5, 2.0))
    dataset = SpeechTextDataset(corpus, processor, augmentation=change)
    assert all(a > b for a, b in zip(dataset.lengths(), plain, strict=True))
    for epoch in range(4):
        dataset.set_epoch(epoch)
        for number, longest in enumerate(dataset.lengths()):
            frames = processor.num_speech_frames(len(dataset[number]["input_features"][0]))
            row = dataset.rows[number]
            assert len(processor.tokenize_row(row, [frames])["input_ids"]) <= longest


def test_what_cannot_be_augmented_is_refused(corpus, processor, model, tmp_path, monkeypatch):
    change = Augmentation(speeds=(0.9,))
    dataset = SpeechTextDataset(corpus, processor, augmentation=change)
    with pytest.raises(ValueError, match="the dataset augments its audio"):
        build_encoder_cache(model, dataset, tmp_path / "cache")
    cache = build_encoder_cache(model, SpeechTextDataset(corpus, processor), tmp_path / "cache")
    with pytest.raises(ValueError, match=r"holds the speech as it is.*drop one of the two"):
        SpeechTextDataset(corpus, processor, augmentation=change, encoder_cache=cache)
    monkeypatch.setattr(processor, "features", lambda samples: samples)
    with pytest.raises(ValueError, match=r"takes samples; leave the masks out"):
        SpeechTextDataset(corpus, processor, augmentation=Augmentation(masks=FeatureMasks()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speeds": (3.0,)}, r"speeds must lie between 0\.5 and 2, received \[3\.0\]"),
        ({"noise_probability": 1.5}, "noise_probability must lie between 0 and 1, received 1.5"),
        ({"noise_snr_db": (20, 10)}, r"noise_snr_db must be lowest and highest"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)


def test_masks_out_of_range_are_refused():
    with pytest.raises(ValueError, match="expected numbers of at least 0"):
        FeatureMasks(time_masks=-1)


def test_the_epoch_of_a_plain_data_set_changes_nothing(corpus, processor):
    dataset = SpeechTextDataset(corpus, processor)
    before = torch.as_tensor(dataset[0]["input_features"][0])
    dataset.set_epoch(3)
    assert torch.equal(torch.as_tensor(dataset[0]["input_features"][0]), before)
