import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from otreg.data import (
    AudioError,
    EncoderCache,
    ManifestError,
    SpeechTextCollator,
    SpeechTextDataset,
    StaleCacheError,
    Utterance,
    encoder_cache,
    load_audio,
)
from otreg.prepare.encoder_states import build_encoder_cache, encoder_fingerprint


def build(model, corpus, processor, path, **options):
    return build_encoder_cache(model, SpeechTextDataset(corpus, processor), path, **options)


def test_an_item_holds_the_utterance_and_its_features(corpus, processor):
    dataset = SpeechTextDataset(corpus, processor)
    assert len(dataset) == 7
    item = dataset[3]
    assert {key: item[key] for key in ("id", "text", "language", "speaker")} == {
        "id": "u3",
        "text": "abababab",
        "language": "en",
        "speaker": None,
    }
    assert item["duration_s"] == 0.5
    np.testing.assert_array_equal(
        item["input_features"][0], processor.features(load_audio(corpus[3]))
    )


def test_manifests_and_utterances_make_the_same_dataset(tmp_path, corpus, processor):
    path = tmp_path / "corpus.jsonl"
    for data in (path, str(path), [path], corpus):
        assert SpeechTextDataset(data, processor).utterances == corpus


def test_no_utterance_and_an_id_twice_are_refused(corpus, processor):
    with pytest.raises(ManifestError, match="no utterance was given"):
        SpeechTextDataset([], processor)
    with pytest.raises(ManifestError, match=r"corpus\.jsonl:1: .* already used by .*:1"):
        SpeechTextDataset([corpus[0], corpus[1], corpus[0]], processor)


def test_a_mixture_of_manifests_and_utterances_is_refused(tmp_path, corpus, processor):
    with pytest.raises(ManifestError, match="a mixture of both"):
        SpeechTextDataset([tmp_path / "corpus.jsonl", corpus[0]], processor)


def test_bad_audio_names_file_and_line(tmp_path, corpus, processor):
    corpus[2].audio.write_bytes(corpus[2].audio.read_bytes()[:-2000])
    dataset = SpeechTextDataset(corpus, processor)
    for use in (lambda: dataset[2], dataset.durations_s, dataset.lengths):
        with pytest.raises(AudioError, match=r"corpus\.jsonl:3: .*2\.wav is truncated"):
            use()


def test_audio_too_short_for_one_speech_frame_is_refused(tmp_path, processor):
    soundfile.write(tmp_path / "a.wav", np.zeros(1000), 16000)
    dataset = SpeechTextDataset([Utterance("u", tmp_path / "a.wav", "x", "en")], processor)
    for use in (lambda: dataset[0], dataset.lengths):
        with pytest.raises(AudioError, match=r"a\.wav is too short: the encoder and adapter"):
            use()


def test_what_the_feature_extractor_refuses_names_the_utterance(corpus, processor, monkeypatch):
    def features(samples):
        raise ValueError("the audio lasts 31 s; this encoder takes at most 30 s")

    monkeypatch.setattr(processor, "features", features)
    with pytest.raises(AudioError, match=r"corpus\.jsonl:1: .*0\.wav: the audio lasts 31 s"):
        SpeechTextDataset(corpus, processor)[0]


def test_max_duration_reaches_the_audio_reader(corpus, processor):
    with pytest.raises(AudioError, match=r"above max_duration_s 0\.25"):
        SpeechTextDataset(corpus, processor, max_duration_s=0.25)[6]


def test_lengths_are_those_of_the_collated_rows(corpus, processor, model, tmp_path):
    cache = build(model, corpus, processor, tmp_path / "cache")
    for options in ({}, {"encoder_cache": cache}):
        dataset = SpeechTextDataset(corpus, processor, **options)
        collator = SpeechTextCollator(processor)
        made = [collator([dataset[n]])["input_ids"].shape[1] for n in range(len(dataset))]
        assert dataset.lengths() == made


def test_lengths_use_the_processor_s_own_count_where_it_has_one(corpus, processor):
    expected = SpeechTextDataset(corpus, processor).lengths()
    processor.feature_length = lambda num_samples: num_samples // 160
    processor.features = None
    assert SpeechTextDataset(corpus, processor).lengths() == expected


def test_cached_states_are_the_encoder_s(corpus, processor, model, tmp_path):
    dataset = SpeechTextDataset(corpus, processor)
    cache = build_encoder_cache(model, dataset, tmp_path / "cache", batch_size=3)
    cached = SpeechTextDataset(corpus, processor, encoder_cache=cache)
    for plain, item in zip(dataset, cached, strict=True):
        assert "input_features" not in item
        assert item["duration_s"] == plain["duration_s"]
        features = torch.from_numpy(plain["input_features"])[None]
        alone = model.encode(features, torch.ones(features.shape[:2], dtype=torch.bool))
        torch.testing.assert_close(
            item["encoder_hidden_states"], alone.encoder_hidden_states[0].detach()
        )
        assert cache.num_frames(dataset.utterances[0]) == len(cached[0]["encoder_hidden_states"])


def test_building_again_encodes_nothing(corpus, processor, model, tmp_path):
    build(model, corpus, processor, tmp_path / "cache")
    assert model.num_encoded == 7
    build(model, corpus, processor, tmp_path / "cache")
    assert model.num_encoded == 7


def test_only_new_and_changed_utterances_are_encoded(
    corpus, processor, model, tmp_path, write_tone
):
    path = tmp_path / "cache"
    build(model, corpus[:4], processor, path)
    write_tone(corpus[1].audio, duration_s=0.3, frequency_hz=300.0)
    corpus[2] = replace(corpus[2], end_s=0.3)
    cache = build(model, corpus, processor, path)
    assert model.num_encoded == 4 + 3 + 2
    item = SpeechTextDataset(corpus, processor)[1]
    alone = model.encode(
        torch.from_numpy(item["input_features"])[None],
        torch.ones(1, len(item["input_features"]), dtype=torch.bool),
    )
    torch.testing.assert_close(cache.get(corpus[1])[0], alone.encoder_hidden_states[0].detach())


def test_a_cache_of_other_weights_is_refused_and_rebuilt(corpus, processor, model, tmp_path):
    path = tmp_path / "cache"
    cache = build(model, corpus, processor, path)
    before = cache.get(corpus[0])[0]
    with torch.no_grad():
        model.audio_tower.weight[0, 0] += 1e-3
    fingerprint = encoder_fingerprint(model, processor)
    with pytest.raises(StaleCacheError, match="made by another encoder"):
        EncoderCache(path, fingerprint=fingerprint)
    rebuilt = build(model, corpus, processor, path)
    assert rebuilt.fingerprint == fingerprint != cache.fingerprint
    assert not torch.equal(rebuilt.get(corpus[0])[0], before)
    assert len(list(path.glob("*.safetensors"))) == 1


def test_the_fingerprint_sees_configurations_and_not_names(model, processor):
    first = encoder_fingerprint(model, processor)
    model.audio_tower.config.to_dict = lambda: {"layers": 1, "_name_or_path": "x"}
    assert encoder_fingerprint(model, processor) == first
    for change in (
        lambda: setattr(model.config, "short_mel", False),
        lambda: setattr(model.audio_tower.config, "to_dict", lambda: {"layers": 2}),
        lambda: model.audio_tower.double(),
    ):
        before = encoder_fingerprint(model, processor)
        change()
        assert encoder_fingerprint(model, processor) != before


def test_changed_audio_is_refused(corpus, processor, model, tmp_path, write_tone):
    cache = build(model, corpus, processor, tmp_path / "cache")
    write_tone(corpus[4].audio, duration_s=0.6, frequency_hz=300.0)
    with pytest.raises(StaleCacheError, match=r"corpus\.jsonl:5: .* has changed since"):
        SpeechTextDataset(corpus, processor, encoder_cache=cache)
    with pytest.raises(StaleCacheError, match="has changed since"):
        cache.get(corpus[4])
    with pytest.raises(StaleCacheError, match="its segment has changed"):
        cache.get(replace(corpus[0], start_s=0.1))
    assert corpus[4] not in cache
    assert corpus[0] in cache


def test_the_same_audio_written_again_or_moved_is_still_known(corpus, processor, model, tmp_path):
    cache = build(model, corpus, processor, tmp_path / "cache")
    content = corpus[0].audio.read_bytes()
    moved = replace(corpus[0], audio=tmp_path / "moved.wav")
    moved.audio.write_bytes(content)
    assert torch.equal(cache.get(moved)[0], cache.get(corpus[0])[0])


def test_audio_with_a_new_time_is_read_once(corpus, processor, model, tmp_path, monkeypatch):
    cache = build(model, corpus, processor, tmp_path / "cache")
    os.utime(corpus[0].audio, ns=(1, 1))
    read = []
    identify = encoder_cache.identify_audio
    monkeypatch.setattr(
        encoder_cache, "identify_audio", lambda item: read.append(item.id) or identify(item)
    )
    for _ in range(3):
        cache.check(corpus)
    assert read == ["u0"]


def test_two_builds_at_once_encode_each_utterance_once(corpus, processor, model, tmp_path):
    path = tmp_path / "cache"
    with ThreadPoolExecutor(2) as pool:
        first, second = [pool.submit(build, model, corpus, processor, path) for _ in range(2)]
        assert len(first.result()) == len(second.result()) == 7
    assert model.num_encoded == 7
    assert all(utterance in first.result() for utterance in corpus)


def test_what_the_cache_lacks_is_refused(corpus, processor, model, tmp_path):
    fingerprint = encoder_fingerprint(model, processor)
    with pytest.raises(StaleCacheError, match="holds no encoder cache"):
        EncoderCache(tmp_path / "absent", fingerprint=fingerprint)
    cache = build(model, corpus[:3], processor, tmp_path / "cache")
    with pytest.raises(StaleCacheError, match="'u3' is not in the encoder cache"):
        SpeechTextDataset(corpus, processor, encoder_cache=cache)
    cached = SpeechTextDataset(corpus[:3], processor, encoder_cache=cache)
    with pytest.raises(ValueError, match="pass one that reads audio"):
        build_encoder_cache(model, cached, tmp_path / "cache")


def test_a_damaged_cache_is_refused(corpus, processor, model, tmp_path):
    path = tmp_path / "cache"
    cache = build(model, corpus, processor, path)
    (shard,) = path.glob("*.safetensors")
    content = shard.read_bytes()
    shard.write_bytes(content[:100])
    with pytest.raises(StaleCacheError, match="cannot be read"):
        cache.get(corpus[0])
    (path / "index.json").write_text("{")
    with pytest.raises(StaleCacheError, match="cannot be read"):
        build(model, corpus, processor, path)


def test_a_build_that_was_cut_short_goes_on(corpus, processor, model, tmp_path, monkeypatch):
    monkeypatch.setattr("otreg.prepare.encoder_states._SHARD_BYTES", 1)
    encode = model.encode

    def fail_after_four(features, mask):
        if model.num_encoded >= 4:
            raise KeyboardInterrupt
        return encode(features, mask)

    monkeypatch.setattr(model, "encode", fail_after_four)
    with pytest.raises(KeyboardInterrupt):
        build(model, corpus, processor, tmp_path / "cache", batch_size=2)
    monkeypatch.setattr(model, "encode", encode)
    build(model, corpus, processor, tmp_path / "cache", batch_size=2)
    assert model.num_encoded == 7


def test_building_leaves_the_training_mode_as_it_was(corpus, processor, model, tmp_path):
    model.train()
    model.audio_tower.eval()
    build(model, corpus, processor, tmp_path / "cache")
    assert model.training
    assert not model.audio_tower.training


def test_an_id_that_safetensors_reserves_can_be_cached(corpus, processor, model, tmp_path):
    odd = [replace(corpus[0], id="__metadata__"), replace(corpus[1], id="a/b c:é")]
    cache = build(model, odd, processor, tmp_path / "cache")
    assert len(cache.get(odd[0])[0]) > 0
    assert len(cache) == 2


def test_workers_read_the_same_items_from_a_cache(corpus, processor, model, tmp_path):
    cache = build(model, corpus, processor, tmp_path / "cache")
    dataset = SpeechTextDataset(corpus, processor, encoder_cache=cache)
    first = dataset[0]["encoder_hidden_states"]
    assert torch.equal(pickle.loads(pickle.dumps(cache)).get(corpus[0])[0], first)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=2, num_workers=2, collate_fn=SpeechTextCollator(processor)
    )
    batches = list(loader)
    assert torch.equal(batches[0]["encoder_hidden_states"][0, : len(first)], first)
    assert sum(len(batch["input_ids"]) for batch in batches) == 7


def test_importing_the_data_section_needs_no_transformers():
    code = "import sys, otreg.data; print('transformers' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"
