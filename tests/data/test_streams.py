"""Streams: every row once a pass, whatever ranks and workers there are; the examples of a data set."""

from collections import Counter
from itertools import pairwise

import pytest
import torch
from source_kinds import write_corpus, write_parquet, write_shards
from torch.utils.data import DataLoader

from otreg.data import (
    ManifestError,
    SpeechTextCollator,
    SpeechTextDataset,
    SpeechTextStream,
    Utterance,
    open_stream,
    read_source,
)
from otreg.data.sources import UtteranceStream


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Ten utterances in four shards: of parquet, and of tar files."""
    import datasets

    datasets.disable_progress_bars()
    folder = tmp_path_factory.mktemp("streams")
    utterances = write_corpus(folder, num=10)
    for first in range(0, 10, 3):
        part = utterances[first : first + 3]
        write_parquet(folder / "parquet" / f"train-{first}.parquet", part)
    shards = write_shards(folder / "shards", utterances, per_shard=3)
    found = {
        "huggingface": {"type": "huggingface", "path": str(folder / "parquet"), "split": "train"},
        "webdataset": {"type": "webdataset", "path": str(shards)},
    }
    return {kind: source | {"streaming": True} for kind, source in found.items()}, utterances


def ids_of(examples):
    return [example["id"] for example in examples]


@pytest.mark.parametrize("kind", ["huggingface", "webdataset"])
def test_a_stream_gives_the_examples_of_a_data_set(sources, kind, processor):
    streamed = list(SpeechTextStream(open_stream(sources[0][kind]), processor))
    dataset = SpeechTextDataset(sources[1], processor)
    expected = [dataset[n] for n in range(len(dataset))]
    assert ids_of(streamed) == ids_of(expected)
    collate = SpeechTextCollator(processor)
    found, wanted = collate(streamed), collate(expected)
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert [e["duration_s"] for e in streamed] == [e["duration_s"] for e in expected]


@pytest.mark.parametrize("kind", ["huggingface", "webdataset"])
@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (1, 2), (2, 0), (2, 2), (3, 2), (7, 0)])
@pytest.mark.parametrize("shuffle", [0, 4])
def test_ranks_and_workers_share_every_row_out_once(
    sources, kind, processor, ranks, workers, shuffle
):
    seen = Counter()
    for rank in range(ranks):
        stream = SpeechTextStream(
            open_stream(sources[0][kind]),
            processor,
            shuffle_buffer=shuffle,
            seed=3,
            rank=rank,
            num_ranks=ranks,
        )
        loader = DataLoader(stream, batch_size=None, num_workers=workers)
        seen.update(ids_of(loader))
    assert seen == Counter({u.id: 1 for u in sources[1]})


def test_shuffling_follows_from_seed_and_pass_alone(sources, processor):
    def order(seed, epoch):
        stream = SpeechTextStream(
            open_stream(sources[0]["webdataset"]), processor, shuffle_buffer=5, seed=seed
        )
        stream.set_epoch(epoch)
        return ids_of(stream)

    assert order(0, 0) == order(0, 0) != [u.id for u in sources[1]]
    assert order(0, 1) != order(0, 0) != order(1, 0)


def test_a_buffer_draws_each_row_among_the_next_ones():
    class Numbers(UtteranceStream):
        def shard(self, index):
            return (Utterance(f"{number}", None) for number in range(60))

    drawn = [int(u.id) for u in Numbers("n", 1).part(0, 1, shuffle_buffer=10, seed=1)]
    assert sorted(drawn) == list(range(60))
    assert all(number <= place + 10 for place, number in enumerate(drawn))
    backwards = sum(after < before for before, after in pairwise(drawn[:40]))
    assert backwards > 5


def test_a_stream_that_repeats_goes_through_pass_after_pass(sources, processor):
    stream = open_stream(sources[0]["webdataset"])
    repeated = iter(SpeechTextStream(stream, processor, shuffle_buffer=5, repeat=True))
    seen = ids_of(next(repeated) for _ in range(20))
    assert sorted(seen[:10]) == sorted(seen[10:]) == sorted(u.id for u in sources[1])
    assert seen[:10] != seen[10:]


def test_a_share_of_nothing_is_not_repeated_for_ever(sources, processor):
    stream = open_stream(sources[0]["webdataset"])
    empty = SpeechTextStream(stream, processor, repeat=True, rank=10, num_ranks=11)
    with pytest.raises(ValueError, match=r"nothing for part 10 of 11; use fewer workers"):
        next(iter(empty))


def test_ids_of_rows_without_one_do_not_depend_on_who_reads(sources, processor):
    source = sources[0]["huggingface"] | {"columns": {"id": None}}
    whole = [u.id for u in open_stream(source)]
    assert len(set(whole)) == 10
    parts = [u.id for index in range(3) for u in open_stream(source).part(index, 3)]
    assert sorted(parts) == sorted(whole)


def test_what_needs_all_rows_refuses_a_stream(sources, processor):
    source = sources[0]["webdataset"]
    for use in (lambda: read_source(source), lambda: SpeechTextDataset(source, processor)):
        with pytest.raises(ManifestError, match=r"is a stream.*drop streaming: true"):
            use()
    with pytest.raises(ManifestError, match="is not streamed; set streaming: true"):
        open_stream(source | {"streaming": False})


@pytest.mark.parametrize("kind", ["huggingface", "webdataset"])
def test_an_empty_row_of_a_stream_is_named_or_dropped_and_counted(sources, tmp_path, kind, caplog):
    from dataclasses import replace

    rows = [replace(sources[1][1], id=f"u{n}", text="x" if n else " ") for n in range(3)]
    made = write_parquet if kind == "huggingface" else write_shards
    place = made(tmp_path / ("t.parquet" if kind == "huggingface" else "shards"), rows)
    source = {"type": kind, "path": str(place), "streaming": True}
    with pytest.raises(ManifestError, match=r"(row 0|sample 'u0'): its text is ' ?'; complete"):
        list(open_stream(source))
    with caplog.at_level("WARNING", logger="otreg"):
        assert [u.id for u in open_stream(source | {"drop_empty": True})] == ["u1", "u2"]
    assert "left out 1 of 3 rows, which lack text or audio" in caplog.text


def test_a_rank_outside_its_range_is_refused(sources, processor):
    with pytest.raises(ValueError, match="expected 0 <= rank < num_ranks"):
        SpeechTextStream(open_stream(sources[0]["webdataset"]), processor, rank=2, num_ranks=2)
