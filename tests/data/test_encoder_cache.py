"""The encoder cache: what it holds is what the encoder says of this very audio, and is kept."""

import os
import pickle
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from otreg.data import (
    AudioError,
    EncoderCache,
    SpeechTextDataset,
    StaleCacheError,
    Utterance,
    load_audio,
)
from otreg.data.segments import Clip
from otreg.prepare.encoder_states import build_encoder_cache, encoder_fingerprint


def build(model, corpus, processor, path, **options):
    return build_encoder_cache(model, SpeechTextDataset(corpus, processor), path, **options)


def encode(model, processor, span):
    features = torch.from_numpy(processor.features(load_audio(span)))[None]
    mask = torch.ones(features.shape[:2], dtype=torch.bool)
    return model.encode(features, mask).encoder_hidden_states[0].detach()


def shards(path):
    return sorted(path.rglob("*.safetensors"))


def test_cached_states_are_the_encoder_s(corpus, processor, model, tmp_path):
    dataset = SpeechTextDataset(corpus, processor)
    cache = build_encoder_cache(model, dataset, tmp_path / "cache", batch_size=3)
    cached = SpeechTextDataset(corpus, processor, encoder_cache=cache)
    for span, plain, item in zip(corpus, dataset, cached, strict=True):
        assert "input_features" not in item
        assert item["duration_s"] == plain["duration_s"]
        (states,) = item["encoder_hidden_states"]
        torch.testing.assert_close(states, encode(model, processor, span))
        assert cache.num_frames(span) == len(states)


def test_only_new_and_changed_utterances_are_encoded(
    corpus, processor, model, tmp_path, write_tone
):
    path = tmp_path / "cache"
    build(model, corpus[:4], processor, path)
    write_tone(corpus[1].audio, duration_s=0.3, frequency_hz=300.0)
    corpus[2] = replace(corpus[2], end_s=0.3)
    cache = build(model, corpus, processor, path)
    assert model.num_encoded == 4 + 3 + 2
    for span in corpus:
        torch.testing.assert_close(cache.get(span)[0], encode(model, processor, span))


def test_manifests_that_share_ids_share_a_cache(tmp_path, processor, model, write_tone):
    """The second data set costs the first nothing, however often they take turns."""

    def corpus(name, frequency_hz):
        audio = write_tone(tmp_path / name / "a.wav", frequency_hz=frequency_hz)
        return [Utterance("u1", audio, "x", "en")]

    path, first, second = tmp_path / "cache", corpus("one", 300.0), corpus("two", 500.0)
    for turn in range(3):
        caches = [build(model, data, processor, path) for data in (first, second)]
        assert model.num_encoded == 2, f"turn {turn} encoded again"
    assert len(shards(path)) == 2
    for data in (first, second):
        expected = encode(model, processor, data[0])
        torch.testing.assert_close(caches[1].get(data[0])[0], expected)
    with pytest.raises(StaleCacheError, match="is not in the encoder cache"):
        build(model, first, processor, tmp_path / "other").check(second)


def test_an_early_reader_is_not_disturbed_by_later_builds(corpus, processor, model, tmp_path):
    path = tmp_path / "cache"
    cache = build(model, corpus[:3], processor, path)
    build(model, corpus[3:], processor, path)
    assert [len(cache.get(span)[0]) for span in corpus[:3]]


def test_encoders_stand_side_by_side_in_a_cache(corpus, processor, model, tmp_path):
    path = tmp_path / "cache"
    cache = build(model, corpus, processor, path)
    before = cache.get(corpus[0])[0]
    with torch.no_grad():
        model.audio_tower.weight[0, 0] += 1e-3
    fingerprint = encoder_fingerprint(model, processor)
    with pytest.raises(StaleCacheError, match="made by another encoder"):
        EncoderCache(path, fingerprint=fingerprint)
    other = build(model, corpus, processor, path)
    assert other.fingerprint == fingerprint != cache.fingerprint
    assert not torch.equal(other.get(corpus[0])[0], before)
    assert torch.equal(EncoderCache(path, fingerprint=cache.fingerprint).get(corpus[0])[0], before)


def test_a_file_of_another_encoder_in_the_folder_is_refused(corpus, processor, model, tmp_path):
    cache = build(model, corpus, processor, tmp_path / "cache")
    near = cache.fingerprint[:16] + "0" * 48
    with pytest.raises(StaleCacheError, match="of another format or encoder; delete it"):
        EncoderCache(tmp_path / "cache", fingerprint=near)


def test_the_fingerprint_sees_configurations_and_not_names(model, processor):
    first = encoder_fingerprint(model, processor)
    model.audio_tower.config.to_dict = lambda: {"layers": 1, "_name_or_path": "x"}
    assert encoder_fingerprint(model, processor) == first
    for change in (
        lambda: setattr(model.config, "short_mel", False),
        lambda: setattr(model.config, "encoder_frame_plan", [[3, 2, 1]]),
        lambda: setattr(model.audio_tower.config, "to_dict", lambda: {"layers": 2}),
        lambda: model.audio_tower.double(),
        lambda: setattr(
            processor, "feature_extractor", SimpleNamespace(to_dict=lambda: {"hop": 80})
        ),
    ):
        before = encoder_fingerprint(model, processor)
        change()
        assert encoder_fingerprint(model, processor) != before


def test_changed_audio_is_refused(corpus, processor, model, tmp_path, write_tone):
    cache = build(model, corpus, processor, tmp_path / "cache")
    write_tone(corpus[4].audio, duration_s=0.6, frequency_hz=300.0)
    with pytest.raises(StaleCacheError, match=r"corpus\.jsonl:5: .* has changed since"):
        SpeechTextDataset(corpus, processor, encoder_cache=cache)
    for use in (cache.get, cache.num_frames):
        with pytest.raises(StaleCacheError, match="has changed since"):
            use(corpus[4])
    with pytest.raises(StaleCacheError, match="its segment has changed"):
        cache.get(replace(corpus[0], start_s=0.1))
    assert corpus[4] not in cache
    assert corpus[0] in cache
    corpus[0].audio.unlink()
    with pytest.raises(AudioError, match=r"corpus\.jsonl:1: .*cannot be read: No such file"):
        cache.get(corpus[0])


def test_new_content_of_the_same_size_and_time_is_seen(
    corpus, processor, model, tmp_path, write_tone
):
    cache = build(model, corpus, processor, tmp_path / "cache")
    status = corpus[1].audio.stat()
    write_tone(corpus[1].audio, duration_s=0.3, frequency_hz=300.0)
    os.utime(corpus[1].audio, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = corpus[1].audio.stat()
    assert (after.st_size, after.st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert corpus[1] not in cache
    again = build(model, corpus, processor, tmp_path / "cache")
    assert model.num_encoded == 8
    torch.testing.assert_close(again.get(corpus[1])[0], encode(model, processor, corpus[1]))


def test_a_file_that_another_takes_the_place_of_is_seen(corpus, processor, model, tmp_path):
    """Renamed over it with the same size and time, as `cp -p` and `mv` leave it."""
    cache = build(model, corpus, processor, tmp_path / "cache")
    audio = corpus[2].audio
    content = bytearray(audio.read_bytes())
    content[-100:] = bytes(100)
    other = audio.with_name("other.wav")
    other.write_bytes(content)
    os.utime(other, ns=(1, audio.stat().st_mtime_ns))
    os.replace(other, audio)
    assert corpus[2] not in cache


def test_the_same_audio_written_again_or_moved_is_still_known(corpus, processor, model, tmp_path):
    cache = build(model, corpus, processor, tmp_path / "cache")
    content = corpus[0].audio.read_bytes()
    moved = replace(corpus[0], audio=tmp_path / "moved.wav", id="another")
    moved.audio.write_bytes(content)
    assert torch.equal(cache.get(moved)[0], cache.get(corpus[0])[0])


def test_clips_are_served_as_utterances_are(corpus, processor, model, tmp_path):
    first, second = corpus[5].audio, corpus[6].audio
    content = (
        {"type": "audio"},
        {"type": "audio", "audio": first, "start_s": 0.1, "end_s": 0.4},
        {"type": "text", "text": "?"},
    )
    messages = ({"role": "user", "content": content},)
    row = Utterance("u1", second, "x", "en", messages=messages)
    cache = build(model, [row], processor, tmp_path / "cache")
    assert model.num_encoded == len(cache) == 2
    for clip in (
        Clip("any", second),
        Clip("any", first, start_s=0.1, end_s=0.4),
        Utterance("any", first, start_s=0.1, end_s=0.4),
    ):
        torch.testing.assert_close(cache.get(clip)[0], encode(model, processor, clip))
    assert Clip("any", first) not in cache
    with pytest.raises(AudioError, match="utterance 'none' has no audio"):
        cache.get(Utterance("none", None))
    with pytest.raises(AudioError, match="utterance 'none' has no audio"):
        load_audio(Utterance("none", None))


def test_what_the_cache_lacks_is_refused(corpus, processor, model, tmp_path):
    fingerprint = encoder_fingerprint(model, processor)
    with pytest.raises(StaleCacheError, match="holds no encoder cache"):
        EncoderCache(tmp_path / "absent", fingerprint=fingerprint)
    cache = build(model, corpus[:3], processor, tmp_path / "cache")
    with pytest.raises(StaleCacheError, match=r"'u3': .*3\.wav is not in the encoder cache"):
        SpeechTextDataset(corpus, processor, encoder_cache=cache)
    cached = SpeechTextDataset(corpus[:3], processor, encoder_cache=cache)
    with pytest.raises(ValueError, match="pass one that reads audio"):
        build_encoder_cache(model, cached, tmp_path / "cache")
    with pytest.raises(ValueError, match="batch_size must be at least 1, received 0"):
        build(model, corpus, processor, tmp_path / "cache", batch_size=0)


def test_a_damaged_cache_is_refused(corpus, processor, model, tmp_path):
    path = tmp_path / "cache"
    build(model, corpus[:3], processor, path)
    cache = build(model, corpus, processor, path)
    damaged = path / cache.folder / cache._entries[next(iter(cache._entries))].shard
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-10])
    with pytest.raises(StaleCacheError, match=r"states-.* cannot be read .*delete it and run"):
        build(model, corpus, processor, path)
    damaged.unlink()
    build(model, corpus, processor, path).check(corpus)


def test_a_cache_of_the_earlier_format_is_refused(corpus, processor, model, tmp_path):
    path = tmp_path / "cache"
    path.mkdir()
    (path / "index.json").write_text("{}")
    for use in (
        lambda: build(model, corpus, processor, path),
        lambda: EncoderCache(path, fingerprint="0" * 64),
    ):
        with pytest.raises(StaleCacheError, match="of an earlier version of otreg; delete it"):
            use()


def test_odd_ids_and_names_can_be_cached(corpus, processor, model, tmp_path):
    odd = [replace(corpus[0], id="__metadata__"), replace(corpus[1], id="a/b c:é")]
    moved = odd[1].audio.rename(odd[1].audio.with_name("a b\u2028é.wav"))
    odd[1] = replace(odd[1], audio=moved)
    cache = build(model, odd, processor, tmp_path / "cache")
    assert len(cache.get(odd[0])[0]) > 0
    assert len(cache) == 2


def test_workers_read_the_same_items_from_a_cache(corpus, processor, model, tmp_path):
    cache = build(model, corpus, processor, tmp_path / "cache")
    dataset = SpeechTextDataset(corpus, processor, encoder_cache=cache)
    expected = [states for item in dataset for states in item["encoder_hidden_states"]]
    assert torch.equal(pickle.loads(pickle.dumps(cache)).get(corpus[0])[0], expected[0])
    loader = torch.utils.data.DataLoader(dataset, batch_size=2, num_workers=2, collate_fn=list)
    read = [
        states for batch in loader for item in batch for states in item["encoder_hidden_states"]
    ]
    assert len(read) == len(expected) == 7
    assert all(torch.equal(one, other) for one, other in zip(read, expected, strict=True))
