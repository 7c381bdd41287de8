"""The same speech in every kind of data: the same utterances, batches and evaluation."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from source_kinds import write_corpus, write_every_kind

sys.path.insert(0, str(Path(__file__).parents[1] / "model"))
from tiny_towers import save_audio_tower, save_language_model

from otreg.data import (
    AudioBytes,
    ManifestError,
    SpeechTextCollator,
    SpeechTextDataset,
    export_manifest,
    load_audio,
    open_stream,
    read_manifest,
    read_source,
    write_manifest,
)
from otreg.evaluation.evaluate import evaluate_model
from otreg.model import SpeechLMForConditionalGeneration, SpeechLMProcessor
from otreg.prepare.digests import content_digest
from otreg.prepare.encoder_states import build_encoder_cache

KINDS = [
    "manifest",
    "parquet",
    "parquet folder",
    "audiofolder csv",
    "audiofolder jsonl",
    "lhotse",
    "webdataset",
    "webdataset braces",
    "kaldi",
    "nemo",
]


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    """datasets keeps Arrow files of what it reads; not in the home folder."""
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    datasets.disable_progress_bars()
    yield
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    utterances = write_corpus(folder)
    return utterances, write_every_kind(folder, utterances), folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers")
    towers = (
        save_audio_tower("whisper-short", folder / "audio_tower"),
        save_language_model("qwen2", folder / "language_model"),
    )
    torch.manual_seed(0)
    model = SpeechLMForConditionalGeneration.from_towers(
        *towers, adapter_type="stack_mlp", adapter_stack=4, short_mel=True
    )
    return model.eval(), SpeechLMProcessor.from_config(model.config, *towers)


def batches(data, processor):
    dataset = SpeechTextDataset(data, processor)
    collate = SpeechTextCollator(processor)
    return [
        collate([dataset[n] for n in range(first, min(first + 10, len(dataset)))])
        for first in range(0, len(dataset), 10)
    ]


@pytest.fixture(scope="module")
def expected(corpus, tiny):
    return batches(corpus[0], tiny[1])


def evaluated(model, processor, data):
    return evaluate_model(
        model,
        processor,
        {"all": data},
        arm="a",
        seed=0,
        batch_size=10,
        max_new_tokens=4,
        max_gap_utterances=10,
        num_alignments=0,
    )


@pytest.fixture(scope="module")
def expected_results(corpus, tiny):
    return evaluated(*tiny, corpus[0])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_batches_and_rows(corpus, tiny, expected, expected_results, kind):
    utterances = read_source(corpus[1][kind])
    facts = [(u.id, u.text, u.language, u.speaker) for u in utterances]
    assert facts == [(u.id, u.text, u.language, u.speaker) for u in corpus[0]]
    assert len(facts) == 50
    found = batches(utterances, tiny[1])
    for batch, wanted in zip(found, expected, strict=True):
        assert batch.keys() == wanted.keys()
        for key, value in wanted.items():
            assert torch.equal(batch[key], value), key
    results = evaluated(*tiny, utterances)
    assert results == expected_results
    assert len(results["rows"]) == 2  # a language each


def test_what_save_to_disk_wrote_and_plain_columns_of_bytes_read_the_same(corpus, tmp_path):
    import datasets
    import pyarrow
    import pyarrow.parquet

    utterances, kinds, _ = corpus
    table = datasets.Dataset.from_parquet(kinds["parquet"]["path"])
    table.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict(test=table, train=table).save_to_disk(tmp_path / "splits")
    saved = {"type": "huggingface", "path": str(tmp_path / "saved")}
    splits = {"type": "huggingface", "path": str(tmp_path / "splits"), "split": "test"}
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    plain = pyarrow.parquet.read_table(kinds["parquet"]["path"])
    sound = pyarrow.array([u.audio.read_bytes() for u in utterances])
    plain = plain.drop_columns(["audio"]).append_column("audio", sound).replace_schema_metadata()
    pyarrow.parquet.write_table(plain, tmp_path / "plain.parquet")
    others = [{"type": "huggingface", "path": str(p)} for p in (arrow, tmp_path / "plain.parquet")]
    for source in (saved, splits, *others):
        found = read_source(source)
        assert [(u.id, u.text) for u in found] == [(u.id, u.text) for u in utterances]
        for ours, theirs in zip(found[:6], utterances[:6], strict=True):
            np.testing.assert_array_equal(load_audio(ours), load_audio(theirs))
    with pytest.raises(ManifestError, match="what save_to_disk wrote is not streamed"):
        open_stream(saved | {"streaming": True})
    with pytest.raises(ManifestError, match=r"give a split, one of test, train"):
        read_source({key: value for key, value in splits.items() if key != "split"})


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_are_exact_in_every_kind(corpus, tiny, kind):
    processor = tiny[1]
    found = SpeechTextDataset(corpus[1][kind], processor).lengths()
    assert found == SpeechTextDataset(corpus[0], processor).lengths()


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_audio_that_is_no_file_is_cheap_to_pickle_and_equal_afterwards(corpus, kind):
    utterances = read_source(corpus[1][kind])
    assert all(isinstance(u.audio, AudioBytes) for u in utterances)
    content = pickle.dumps(utterances)
    assert len(content) < 50 * 1000 < sum(len(u.audio.read()) for u in utterances)
    again = pickle.loads(content)
    assert again == utterances
    assert [hash(u) for u in again] == [hash(u) for u in utterances]
    assert [u.audio.read() for u in again] == [u.audio.read() for u in utterances]
    assert again[0] != again[1]


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_workers_of_a_loader_read_the_same(corpus, tiny, expected, kind):
    loader = torch.utils.data.DataLoader(
        SpeechTextDataset(corpus[1][kind], tiny[1]),
        batch_size=10,
        collate_fn=SpeechTextCollator(tiny[1]),
        num_workers=2,
    )
    for batch, wanted in zip(loader, expected, strict=True):
        assert torch.equal(batch["input_features"], wanted["input_features"])


def test_one_encoder_cache_serves_files_rows_and_members(corpus, tiny, tmp_path):
    model, processor = tiny
    ours = SpeechTextDataset(corpus[0], processor)
    cache = build_encoder_cache(model, ours, tmp_path / "cache")
    for kind in ("parquet", "webdataset"):
        dataset = SpeechTextDataset(corpus[1][kind], processor, encoder_cache=cache)
        states, duration_s = cache.get(dataset.clips()[1])
        assert torch.equal(states, cache.get(ours.clips()[1])[0])
        assert duration_s == pytest.approx(0.31, abs=1e-3)
        again = build_encoder_cache(
            model, SpeechTextDataset(corpus[1][kind], processor), tmp_path / "cache"
        )
        assert len(again) == len(cache) == 50


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_a_row_s_digest_knows_content_not_place(corpus, kind):
    found = [content_digest(u) for u in read_source(corpus[1][kind])]
    assert found == [content_digest(u) for u in corpus[0]]


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_export_makes_a_manifest_of_the_same_speech(corpus, kind, tmp_path):
    utterances = read_source(corpus[1][kind])
    with pytest.raises(ManifestError, match=r"is no file of its own.*export_manifest writes"):
        write_manifest(tmp_path / "m.jsonl", utterances)
    assert not (tmp_path / "m.jsonl").exists()
    export_manifest(tmp_path / "m.jsonl", utterances)
    again = read_manifest(tmp_path / "m.jsonl")
    assert {path.suffix for path in (tmp_path / "audio").iterdir()} == {".wav", ".flac", ".ogg"}
    for ours, theirs in zip(again, corpus[0], strict=True):
        assert (ours.id, ours.text, ours.start_s) == (theirs.id, theirs.text, theirs.start_s)
        np.testing.assert_array_equal(load_audio(ours), load_audio(theirs))
