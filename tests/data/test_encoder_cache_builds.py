"""Building an encoder cache: once, whole, resumable, and never the states of other audio."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from otreg.data import (
    AudioError,
    SpeechTextDataset,
    Utterance,
    file_digests,
    load_audio,
)
from otreg.prepare.encoder_states import build_encoder_cache


def build(model, corpus, processor, path, **options):
    return build_encoder_cache(model, SpeechTextDataset(corpus, processor), path, **options)


def encode(model, processor, span):
    features = torch.from_numpy(processor.features(load_audio(span)))[None]
    mask = torch.ones(features.shape[:2], dtype=torch.bool)
    return model.encode(features, mask).encoder_hidden_states[0].detach()


def shards(path):
    return sorted(path.rglob("*.safetensors"))


def test_building_again_encodes_nothing(corpus, processor, model, tmp_path):
    build(model, corpus, processor, tmp_path / "cache")
    assert model.num_encoded == 7
    build(model, corpus, processor, tmp_path / "cache")
    assert model.num_encoded == 7


def test_audio_is_read_once_while_it_does_not_change(
    corpus, processor, model, tmp_path, monkeypatch
):
    read = []
    sha256 = file_digests._sha256
    monkeypatch.setattr(file_digests, "_sha256", lambda path: read.append(path) or sha256(path))
    cache = build(model, corpus, processor, tmp_path / "cache")
    assert len(read) == 7
    build(model, corpus, processor, tmp_path / "cache").check(corpus)
    assert len(read) == 7
    os.utime(corpus[0].audio, ns=(1, 1))
    for _ in range(3):
        cache.check(corpus)
    assert read[7:] == [str(corpus[0].audio)]
    build(model, corpus, processor, tmp_path / "cache").check(corpus)
    build(model, corpus, processor, tmp_path / "cache").check(corpus)
    assert len(read) == 9


def test_what_remembers_the_hashes_may_be_lost_or_damaged(corpus, processor, model, tmp_path):
    path = tmp_path / "cache"
    for content in (None, "", "{", "[]", "3"):
        build(model, corpus, processor, path)
        (hashes,) = path.rglob("files.json")
        hashes.unlink() if content is None else hashes.write_text(content)
    assert model.num_encoded == 7


def test_a_data_set_without_speech_makes_an_empty_cache(processor, model, tmp_path):
    messages = ({"role": "user", "content": ({"type": "text", "text": "hello"},)},)
    rows = [Utterance("u1", None, language="en", messages=messages)]
    assert len(build(model, rows, processor, tmp_path / "cache")) == 0


def test_a_piece_of_audio_that_stands_in_several_rows_is_encoded_once(
    corpus, processor, model, tmp_path
):
    copy = tmp_path / "copy.wav"
    copy.write_bytes(corpus[3].audio.read_bytes())
    rows = [corpus[3], replace(corpus[3], id="again", start_s=0.0), replace(corpus[3], id="copy")]
    rows[2] = replace(rows[2], audio=copy)
    cache = build(model, rows, processor, tmp_path / "cache")
    assert model.num_encoded == len(cache) == 1
    cache.check(rows)


def test_two_builds_at_once_encode_each_utterance_once(corpus, processor, model, tmp_path):
    path = tmp_path / "cache"
    with ThreadPoolExecutor(2) as pool:
        first, second = [pool.submit(build, model, corpus, processor, path) for _ in range(2)]
        assert len(first.result()) == len(second.result()) == 7
    assert model.num_encoded == 7
    assert all(utterance in first.result() for utterance in corpus)


@pytest.mark.parametrize("shard_bytes", [1, 1 << 30])
def test_a_build_that_was_cut_short_goes_on(
    corpus, processor, model, tmp_path, monkeypatch, shard_bytes
):
    monkeypatch.setattr("otreg.prepare.encoder_states._SHARD_BYTES", shard_bytes)
    encode_batch = model.encode

    def fail_after_four(features, mask):
        if model.num_encoded >= 4:
            raise KeyboardInterrupt
        return encode_batch(features, mask)

    monkeypatch.setattr(model, "encode", fail_after_four)
    with pytest.raises(KeyboardInterrupt):
        build(model, corpus, processor, tmp_path / "cache", batch_size=2)
    monkeypatch.setattr(model, "encode", encode_batch)
    cache = build(model, corpus, processor, tmp_path / "cache", batch_size=2)
    assert model.num_encoded == 7
    assert len(shards(tmp_path)) == (7 if shard_bytes == 1 else 2)
    for span in corpus:
        torch.testing.assert_close(cache.get(span)[0], encode(model, processor, span))


def test_what_a_killed_build_left_half_written_is_cleared_away(corpus, processor, model, tmp_path):
    cache = build(model, corpus[:2], processor, tmp_path / "cache")
    (cache.folder / "states-0.safetensors.tmp").write_bytes(b"half")
    build(model, corpus, processor, tmp_path / "cache")
    assert not list(cache.folder.glob("*.tmp"))


def test_audio_that_changes_while_it_is_encoded_is_refused(
    corpus, processor, model, tmp_path, monkeypatch, write_tone
):
    features = processor.features

    def changed(samples):
        write_tone(corpus[0].audio, frequency_hz=float(len(samples) % 300 + 100))
        return features(samples)

    monkeypatch.setattr(processor, "features", changed)
    with pytest.raises(AudioError, match=r"corpus\.jsonl:1: .*changed while it was being encoded"):
        build(model, corpus[:1], processor, tmp_path / "cache")


def test_bad_audio_names_its_line_and_keeps_what_was_encoded(corpus, processor, model, tmp_path):
    corpus[4].audio.write_bytes(corpus[4].audio.read_bytes()[:-2000])
    with pytest.raises(AudioError, match=r"corpus\.jsonl:5: .*is truncated"):
        build(model, corpus, processor, tmp_path / "cache", batch_size=2)
    assert model.num_encoded == 4
    build(model, corpus[:4], processor, tmp_path / "cache")
    assert model.num_encoded == 4
    corpus[5].audio.unlink()
    with pytest.raises(AudioError, match=r"corpus\.jsonl:6: .*cannot be read: No such file"):
        build(model, corpus[5:], processor, tmp_path / "cache")


def test_a_progress_bar_is_shown_when_asked_for(corpus, processor, model, tmp_path, capsys):
    build(model, corpus[:3], processor, tmp_path / "cache")
    assert capsys.readouterr().err == ""
    build(model, corpus, processor, tmp_path / "cache", progress=True)
    assert "4/4" in capsys.readouterr().err
    build(model, corpus, processor, tmp_path / "cache", progress=True)
    assert capsys.readouterr().err == ""


def test_building_leaves_the_training_mode_as_it_was(corpus, processor, model, tmp_path):
    model.train()
    model.audio_tower.eval()
    build(model, corpus, processor, tmp_path / "cache")
    assert model.training
    assert not model.audio_tower.training
