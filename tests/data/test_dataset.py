import subprocess
import sys

import numpy as np
import pytest
import soundfile

from otreg.data import (
    AudioError,
    ManifestError,
    SpeechTextCollator,
    SpeechTextDataset,
    Utterance,
    load_audio,
)
from otreg.prepare.encoder_states import build_encoder_cache


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


def test_importing_the_data_section_needs_no_transformers():
    code = "import sys, otreg.data; print('transformers' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"


def test_a_clip_is_an_example_of_its_own(corpus, processor):
    dataset = SpeechTextDataset(corpus, processor)
    (clip,) = dataset.rows[3].clips
    row = dataset.clip_example(clip)["row"]
    assert [(s.kind, s.role, s.supervised) for s in row.segments] == [
        ("audio", "user", False),
        ("text", "assistant", True),
    ]
    assert row.answer == "abababab"
