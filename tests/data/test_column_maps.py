"""The shipped column maps, on tables that have the columns the data sets publish."""

import pytest
from source_kinds import write_corpus

from otreg.data import ManifestError, load_audio, read_source
from otreg.data.sources.columns import COLUMN_MAPS

# Columns as the data sets' cards publish them, without the audio; two rows each.
TABLES = {
    "common_voice": {
        "client_id": ["c1", "c2"],
        "path": ["en_0/common_voice_en_1.mp3", "en_0/common_voice_en_2.mp3"],
        "sentence": ["One.", "Two."],
        "up_votes": [2, 3],
        "down_votes": [0, 1],
        "age": ["", "twenties"],
        "gender": ["", "male"],
        "accent": ["", ""],
        "locale": ["en", "pt-BR"],
        "segment": ["", ""],
        "variant": ["", ""],
    },
    "fleurs": {
        "id": [7, 7],
        "num_samples": [4800, 4800],
        "path": ["/a/1.wav", "/a/2.wav"],
        "transcription": ["one", "two"],
        "raw_transcription": ["One.", "Two."],
        "gender": [0, 1],
        "lang_id": [19, 19],
        "language": ["English", "English"],
        "lang_group_id": [0, 0],
    },
    "mls": {
        "original_path": ["http://archive/1.mp3", "http://archive/1.mp3"],
        "begin_time": [401.76, 500.0],
        "end_time": [417.57, 512.0],
        "transcript": ["one", "two"],
        "audio_duration": [0.3, 0.3],
        "speaker_id": ["10148", "10148"],
        "chapter_id": ["10119", "10119"],
        "file": ["10148_10119_000000.flac", "10148_10119_000001.flac"],
        "id": ["10148_10119_000000", "10148_10119_000001"],
    },
    "voxpopuli": {
        "audio_id": ["2016-PLENARY_0", "2016-PLENARY_1"],
        "language": [0, 1],
        "raw_text": ["One.", ""],
        "normalized_text": ["one", "two"],
        "gender": ["male", "female"],
        "speaker_id": ["124737", "None"],
        "is_gold_transcript": [True, False],
        "accent": ["None", "None"],
    },
    "librispeech": {
        "file": ["1272-1.flac", "1272-2.flac"],
        "text": ["ONE", "TWO"],
        "speaker_id": [1272, 1272],
        "chapter_id": [128104, 128104],
        "id": ["1272-128104-0000", "1272-128104-0001"],
    },
}
EXPECTED = {  # id, text, language, speaker of both rows
    "common_voice": [
        ("en_0/common_voice_en_1.mp3", "One.", "en", "c1"),
        ("en_0/common_voice_en_2.mp3", "Two.", "pt-BR", "c2"),
    ],
    "fleurs": [("t/0", "one", "en", None), ("t/1", "two", "en", None)],
    "mls": [
        ("10148_10119_000000", "one", "de", "10148"),
        ("10148_10119_000001", "two", "de", "10148"),
    ],
    "voxpopuli": [
        ("2016-PLENARY_0", "one", "en", "124737"),
        ("2016-PLENARY_1", "two", "de", "None"),
    ],
    "librispeech": [
        ("1272-128104-0000", "ONE", "en", "1272"),
        ("1272-128104-0001", "TWO", "en", "1272"),
    ],
}
LANGUAGE = {"fleurs": "en", "mls": "de", "librispeech": "en"}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A parquet file a data set, with the audio as Hugging Face stores it."""
    import datasets
    import pyarrow

    datasets.disable_progress_bars()
    folder = tmp_path_factory.mktemp("tables")
    utterances = write_corpus(folder, num=4)[1:3]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    audio = [{"bytes": u.audio.read_bytes(), "path": u.audio.name} for u in utterances]
    for name, columns in TABLES.items():
        made = pyarrow.table({**columns, "audio": pyarrow.array(audio, kind)})
        plain = dict(datasets.Features.from_arrow_schema(made.schema))
        plain["audio"] = datasets.Audio()
        if name == "voxpopuli":
            plain["language"] = datasets.ClassLabel(names=["en", "de", "fr"])
        made = made.cast(datasets.Features(plain).arrow_schema)
        (folder / name).mkdir()
        datasets.Dataset(made).to_parquet(folder / name / "t.parquet")
    return folder, utterances


def source_of(folder, name):
    path = str(folder / name / "t.parquet")
    found = {"type": "huggingface", "path": path, "columns": name}
    return found | ({"language": LANGUAGE[name]} if name in LANGUAGE else {})


def test_every_shipped_map_is_tested():
    assert {path.stem for path in COLUMN_MAPS.glob("*.yaml")} == set(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_a_shipped_map_reads_the_published_columns(tables, name):
    folder, utterances = tables
    rows = read_source(source_of(folder, name))
    assert [(u.id, u.text, u.language, u.speaker) for u in rows] == EXPECTED[name]
    for row, wanted in zip(rows, utterances, strict=True):
        assert (row.start_s, row.end_s) == (None, None)
        assert (load_audio(row) == load_audio(wanted)).all()


@pytest.mark.parametrize("name", LANGUAGE)
def test_a_data_set_without_language_codes_asks_for_one(tables, name):
    source = source_of(tables[0], name)
    del source["language"]
    with pytest.raises(ManifestError, match="no column of languages; give language: en"):
        read_source(source)


def test_a_language_replaces_a_shipped_map_s_column(tables):
    rows = read_source(source_of(tables[0], "common_voice") | {"language": "fr"})
    assert [u.language for u in rows] == ["fr", "fr"]
