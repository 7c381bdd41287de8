"""What no kind of data gets away with: each error names the place and says what to do."""

import json
import os
import tarfile
from pathlib import Path

import pytest
import yaml
from source_kinds import (
    lhotse_cuts,
    write_audiofolder,
    write_corpus,
    write_kaldi,
    write_lhotse,
    write_nemo,
    write_parquet,
    write_shards,
)

from otreg.data import AudioError, ManifestError, load_audio, read_source
from otreg.data.sources import READERS, check_source


@pytest.fixture
def corpus(tmp_path):
    import datasets

    datasets.disable_progress_bars()
    folder = tmp_path / "corpus"
    return folder, write_corpus(folder, num=4)


def refuse(source, message, error=ManifestError):
    with pytest.raises(error, match=message):
        read_source(source)


def replace_in(path, old, new):
    content = path.read_text(encoding="utf-8")
    assert old in content
    path.write_text(content.replace(old, new, 1), encoding="utf-8")


def test_the_documented_sources_have_known_types_keys_and_values():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    section = page.split("## Other kinds of data")[1].split("\n## Audio")[0]
    found = [
        yaml.safe_load(line.split("- ", 1)[-1].removeprefix("  validation: "))
        for block in section.split("```yaml\n")[1:]
        for line in block.split("```")[0].splitlines()
        if "{type:" in line
    ]
    for source in found:
        check_source(source)
    assert {source["type"] for source in found} == set(READERS) - {"manifest"}


# Kaldi


@pytest.fixture
def kaldi(corpus):
    folder, utterances = corpus
    path = write_kaldi(folder / "kaldi", utterances)
    return path, {"type": "kaldi", "path": str(path), "root": str(folder)}


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("wav.scp", "01 /", "01 touch PWNED; cat /", r"no audio file 'touch PWNED"),
        ("wav.scp", "01 ", "01 touch PWNED | ", r"no audio file 'touch PWNED \|"),
        ("wav.scp", "01.flac", "01.flac |", r"wav\.scp:2: .*\|' is a command.*never runs"),
        ("wav.scp", "01 ", "01 |", r"wav\.scp:2: .* is a command"),
        ("wav.scp", "01.flac", "01.ark:17", r"wav\.scp:2: .*is no sound file.*wav-copy"),
        ("wav.scp", "01 ", "01 ../../", r"leads out of|no audio file"),
        ("wav.scp", "02 ", "01 ", r"wav\.scp:3: '01' already stands in .*wav\.scp:2"),
        ("text", "u01 ", "u09 ", r"text:2: utterance 'u09' is not in .*segments"),
        ("segments", "u03 03 0.00 -1.00\n", "", r"text:4: utterance 'u03' is not in .*segments"),
        ("text", "u03 ", "u02 ", r"text:4: 'u02' already stands in .*text:3"),
        ("segments", "u01 01 0.00 -1.00", "u01 01 0.00", r"segments:2: expected 4 fields"),
        ("segments", "u01 01 0.00", "u01 77 0.00", r"segments:2: recording '77' is not in wav"),
        ("segments", "u01 01 0.00", "u01 01 x", r"segments:2: expected start and end in seconds"),
        ("segments", "u01 01 0.00 -1.00", "u01 01 2.0 1.0", r"does not come after start_s"),
        ("utt2lang", "u01 de\n", "", r"text:2: utterance 'u01' has no language; give"),
    ],
)
def test_kaldi(kaldi, monkeypatch, tmp_path, file, old, new, message):
    folder, source = kaldi
    monkeypatch.chdir(tmp_path)
    replace_in(folder / file, old, new)
    refuse(source, message)
    assert not (tmp_path / "PWNED").exists()


def test_kaldi_utterances_without_transcript_are_named_or_dropped_on_request(kaldi, caplog):
    folder, source = kaldi
    lines = (folder / "text").read_text(encoding="utf-8").splitlines()
    (folder / "text").write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    refuse(source, r"text: utterance 'u03': its text is missing; complete the row")
    (folder / "text").write_text("\n".join([*lines[:-1], "u03"]) + "\n", encoding="utf-8")
    refuse(source, r"text:4: its text is ''; complete the row, or .*drop_empty: true")
    with caplog.at_level("WARNING", logger="otreg"):
        assert len(read_source(source | {"drop_empty": True})) == 3
    assert "left out 1 of 4 rows, which lack text or audio" in caplog.text


def test_a_folder_that_is_not_kaldi_s(tmp_path):
    refuse({"type": "kaldi", "path": str(tmp_path)}, "no wav.scp in it")


# Roots


@pytest.mark.parametrize("kind", ["kaldi", "nemo", "lhotse", "csv", "parquet"])
@pytest.mark.parametrize("how", ["absolute", "link", "dots"])
def test_no_path_leaves_the_root(corpus, tmp_path, kind, how):
    import dataclasses

    folder, utterances = corpus
    inside = folder / "inside"
    inside.mkdir()
    place = utterances[1].audio
    if how == "link":
        place = inside / "link.flac"
        os.symlink(utterances[1].audio, place)
    if how == "dots":
        place = inside / ".." / "wav" / utterances[1].audio.name
    moved = [dataclasses.replace(utterances[1], audio=place)]
    if kind == "kaldi":
        source = {"type": "kaldi", "path": str(write_kaldi(inside / "k", moved))}
    elif kind == "nemo":
        source = {"type": "nemo", "path": str(write_nemo(inside / "m.json", moved))}
    elif kind == "lhotse":
        source = {"type": "lhotse", "path": str(write_lhotse(inside / "c.jsonl.gz", moved))}
    elif kind == "csv":
        made = write_audiofolder(inside / "csv", moved)
        replace_in(made / "metadata.csv", place.name, str(place))
        source = {"type": "huggingface", "path": str(made)}
    else:
        source = {"type": "huggingface", "path": str(write_paths(inside / "x.parquet", moved))}
    root = {"root": str(inside)}
    refuse(source | root, r"leads out of .*inside")
    assert read_source(source | {"root": str(folder)})[0].audio == utterances[1].audio


def write_paths(path, utterances):
    """A parquet file whose audio is paths alone."""
    import pyarrow
    import pyarrow.parquet

    rows = [
        {"audio": str(u.audio), "id": u.id, "text": u.text, "language": u.language}
        for u in utterances
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


# NeMo


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio_filepath": None}, r"m\.json:2: its audio is missing"),
        ({"text": "  "}, r"m\.json:2: its text is '  '; complete the row"),
        ({"lang": None}, r"m\.json:2: no 'lang'; give the line one, or the source a language"),
        ({"language": "fr"}, r"m\.json:2: its languages differ: \['de', 'fr'\]"),
        ({"duration": -1.0}, r"m\.json:2: 'duration' must be finite and not negative"),
        ({"offset": "x"}, r"m\.json:2: 'offset' must be a number of seconds"),
        ({"shard_id": 3}, r"m\.json:2: it names a shard of a tarred data set"),
        ({"id": "u00"}, r"m\.json:2: id 'u00' is already used by .*m\.json:1"),
        ({"audio_filepath": "none.wav"}, r"m\.json:2: no audio file 'none\.wav' in"),
    ],
)
def test_nemo(corpus, change, message):
    folder, utterances = corpus
    path = write_nemo(folder / "m.json", utterances)
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | change)
    path.write_text("\n".join(lines), encoding="utf-8")
    refuse({"type": "nemo", "path": str(path)}, message)


def test_nemo_without_ids_takes_path_and_offset_and_keeps_the_other_keys(corpus):
    folder, utterances = corpus
    path = write_nemo(folder / "m.json", utterances)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        del line["id"]
        line["audio_filepath"] = os.path.relpath(line["audio_filepath"], folder)
        line["pnc"] = "yes"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    found = read_source({"type": "nemo", "path": str(path)})
    assert [u.id for u in found] == ["wav/long@0", "wav/01", "wav/02", "wav/03"]
    assert found[0].custom == {"pnc": "yes"}


# Lhotse


def test_lhotse(corpus):
    from lhotse import CutSet, MonoCut, SupervisionSegment
    from lhotse.audio import AudioSource

    folder, utterances = corpus
    cut = lhotse_cuts(utterances)[2]
    marker = folder / "PWNED"

    def bad(message, changed, **options):
        path = folder / "cuts.jsonl.gz"
        CutSet.from_cuts([changed]).to_file(path)
        refuse({"type": "lhotse", "path": str(path)} | options, message)

    def recorded(**changes):
        import dataclasses

        return dataclasses.replace(
            cut,
            recording=dataclasses.replace(cut.recording, **changes),
            supervisions=cut.supervisions,
        )

    command = AudioSource(type="command", channels=[0], source=f"touch {marker}")
    bad(r"cut 'u02': its recording is a command .*neither runs", recorded(sources=[command]))
    link = AudioSource(type="url", channels=[0], source="http://127.0.0.1/a.wav")
    bad(r"cut 'u02': its recording is a url", recorded(sources=[link]))
    bad(r"cut 'u02.*': its recording is to be transformed", cut.perturb_speed(1.1))
    bad(r"cut '.*' is a MixedCut; expected cuts of one recording", cut.pad(duration=2.0))
    stereo = lhotse_cuts(utterances)[1]
    bad(r"takes channel 0 of \[0, 1\]; otreg averages all", stereo.to_mono()[0])
    bad(r"cut 'f' has no recording", MonoCut("f", 0.0, 0.3, 0, supervisions=cut.supervisions))
    silent = cut.drop_supervisions()
    bad(r"cut 'u02': its text is missing; complete the row", silent, language="en")
    twice = [
        SupervisionSegment("a", cut.recording.id, 0.0, 0.1, text="x", language="en"),
        SupervisionSegment("b", cut.recording.id, 0.1, 0.1, text="y", language="en"),
    ]
    several = cut.drop_supervisions()
    several.supervisions = twice
    bad(r"has 2 supervisions; expected one: set trim_to_supervisions", several)
    assert not marker.exists()
    path = folder / "cuts.jsonl.gz"
    found = read_source({"type": "lhotse", "path": str(path), "trim_to_supervisions": True})
    assert [(u.text, u.start_s, u.end_s) for u in found] == [("x", 0.0, 0.1), ("y", 0.1, 0.2)]
    refuse({"type": "lhotse", "path": str(folder / "no.jsonl.gz")}, "no such manifest of Lhotse")
    (folder / "bad.jsonl").write_text("{")
    refuse({"type": "lhotse", "path": str(folder / "bad.jsonl")}, r"Lhotse cannot read it")


def test_lhotse_recordings_with_supervisions_and_words(corpus):
    from lhotse import RecordingSet, SupervisionSet
    from lhotse.supervision import AlignmentItem

    folder, utterances = corpus
    cuts = list(lhotse_cuts(utterances[1:3]))
    RecordingSet.from_recordings(c.recording for c in cuts).to_file(folder / "r.jsonl.gz")
    said = [c.supervisions[0] for c in cuts]
    said[1].alignment = {
        "word": [AlignmentItem("alpha", 0.1, 0.1), AlignmentItem("bravo", 0.2, 0.1)]
    }
    SupervisionSet.from_segments(said).to_file(folder / "s.jsonl.gz")
    source = {"type": "lhotse", "path": str(folder / "r.jsonl.gz")}
    found = read_source(source | {"supervisions": str(folder / "s.jsonl.gz")})
    assert [u.text for u in found] == [u.text for u in utterances[1:3]]
    assert [(w.word, w.start_s) for w in found[1].words] == [("alpha", 0.1), ("bravo", 0.2)]


# webdataset


def test_tar_shards_that_are_damaged_or_hold_links(corpus, tmp_path):
    folder, utterances = corpus
    shards = write_shards(folder / "shards", utterances)
    shard = shards / "part-000.tar"
    whole = shard.read_bytes()
    source = {"type": "webdataset", "path": str(shard)}
    with tarfile.open(shard) as tar:
        last = tar.getmembers()[-1]
    end = last.offset_data + -(-last.size // 512) * 512
    for size in (end, end + 512, last.offset_data + 10, last.offset):
        shard.write_bytes(whole[:size])
        refuse(source, r"part-000\.tar: (is truncated or damaged|no intact tar file)")
    second = whole.index(b"u01.", 512)
    shard.write_bytes(whole[: second + 10] + b"\xff" * 100 + whole[second + 110 :])
    refuse(source, r"part-000\.tar: (is truncated or damaged at byte|no intact tar file)")
    with tarfile.open(shard, "w") as tar:
        link = tarfile.TarInfo("u1.wav")
        link.type, link.linkname = tarfile.SYMTYPE, str(utterances[1].audio)
        tar.addfile(link)
    refuse(source, r"part-000\.tar: 'u1\.wav' is a link or a device")
    with tarfile.open(shard, "w:gz") as tar:
        tar.add(utterances[1].audio, "u1.flac")
    refuse(source, r"no intact tar file .*gunzip")
    refuse({"type": "webdataset", "path": str(tmp_path / "x.tar")}, "no such tar file or folder")
    refuse({"type": "webdataset", "path": str(tmp_path)}, "names no tar file")


def pack(path, members):
    import io

    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return {"type": "webdataset", "path": str(path)}


def test_tar_samples_that_are_not_whole(corpus, tmp_path):
    _, utterances = corpus
    sound = utterances[2].audio.read_bytes()
    facts = b'{"text": "x", "language": "en"}'

    def bad(message, *members, **options):
        refuse(pack(tmp_path / "s.tar", members) | options, message)

    bad(r"s\.tar: sample 'u1' has 2 sound files", ("u1.wav", sound), ("u1.flac", sound))
    bad(r"sample 'u1' has two members \.wav", ("u1.wav", sound), ("u1.wav", sound))
    bad(r"sample 'u1': its text is missing", ("u1.wav", sound), ("u1.json", b'{"language": "en"}'))
    bad(r"sample 'u1': its \.json names no language", ("u1.wav", sound), ("u1.txt", b"x"))
    bad(r"sample 'u1': its audio is missing", ("u1.json", facts))
    bad(r"sample 'u1': its \.json cannot be read", ("u1.wav", sound), ("u1.json", b"{"))
    bad(r"its \.txt and its \.json differ", ("u1.wav", sound), ("u1.json", facts), ("u1.txt", b"y"))
    bad(r"its text is not UTF-8", ("u1.wav", sound), ("u1.txt", b"\xff"), language="en")
    bad(
        r"its \.json has no key 'said' \(columns: text\)",
        ("u1.wav", sound),
        ("u1.json", facts),
        columns={"text": "said"},
    )
    apart = [("u1.wav", sound), ("u1.json", facts), ("u2.wav", sound), ("u2.json", facts)]
    bad(r"id 'u1' is already used by", *apart, ("u1.flac", sound), ("u1.json", facts))
    found = read_source(
        pack(tmp_path / "t.tar", [("a/b.c/u1.wav", sound), ("a/b.c/u1.json", facts)])
    )
    assert found[0].id == "a/b.c/u1"


def test_a_member_of_a_shard_that_changed_is_not_read(corpus, tmp_path):
    _, utterances = corpus
    facts = b'{"text": "x", "language": "en"}'
    sound = utterances[2].audio.read_bytes()
    source = pack(tmp_path / "s.tar", [("u1.wav", sound), ("u1.json", facts)])
    (row,) = read_source(source)
    load_audio(row)
    pack(tmp_path / "s.tar", [("u0.txt", b"y" * 700), ("u1.wav", sound)])
    with pytest.raises(AudioError, match=r"s\.tar/u1\.wav cannot be read .*changed since"):
        load_audio(row)


def test_a_cut_sound_inside_a_shard_or_a_table_is_found(corpus, tmp_path):
    from dataclasses import replace

    _, utterances = corpus
    cut = tmp_path / "cut.wav"
    cut.write_bytes(utterances[2].audio.read_bytes()[:-100])
    facts = b'{"text": "x", "language": "en"}'
    members = [
        ("u1.wav", cut.read_bytes()),
        ("u1.json", facts),
        ("u2.wav", b""),
        ("u2.json", facts),
    ]
    first, second = read_source(pack(tmp_path / "s.tar", members))
    with pytest.raises(AudioError, match=r"sample 'u1': .*s\.tar/u1\.wav is truncated"):
        load_audio(first)
    with pytest.raises(AudioError, match=r"s\.tar/u2\.wav is empty \(0 bytes\)"):
        load_audio(second)
    table = write_parquet(tmp_path / "t.parquet", [replace(utterances[2], audio=cut)])
    (row,) = read_source({"type": "huggingface", "path": str(table)})
    with pytest.raises(AudioError, match=r"t: row 0: .* \(cut\.wav\) is truncated"):
        load_audio(row)


# Hugging Face datasets


def test_tables_that_cannot_be_used(corpus, tmp_path):
    folder, utterances = corpus
    path = write_parquet(folder / "t.parquet", utterances, text=["a", None, "c", " "])
    source = {"type": "huggingface", "path": str(path)}
    refuse(source, r"t: row 1: its text is missing; complete the row, or leave such")
    assert [u.id for u in read_source(source | {"drop_empty": True})] == ["u00", "u02"]
    refuse(source | {"columns": {"text": "said"}}, r"no column 'said'; did you mean|known: audio")
    refuse(source | {"columns": {"txt": "text"}}, r"unknown field 'txt'; did you mean 'text'")
    refuse(
        source | {"columns": {"audio": "id"}, "root": str(folder)},
        r"row 0: no audio file 'u00'|no audio",
    )
    refuse(
        source | {"columns": {"audio": "start_s"}}, r"column 'start_s' is .*expected encoded audio"
    )
    refuse(source | {"columns": {"audio": None}}, r"no column 'audio'; name the one")
    both = {"language": "en", "columns": {"language": "language"}}
    refuse(source | both, r"both language: en and a column of languages")
    refuse(source | {"columns": {"language": None}}, r"no column of languages; give language: en")
    refuse({"type": "huggingface", "path": str(folder / "no.parquet")}, "no such data set")
    refuse({"type": "huggingface", "path": str(folder / "all.jsonl")}, r"type: manifest")
    empty = write_parquet(folder / "e.parquet", utterances[:1], text=[None])
    refuse(
        {"type": "huggingface", "path": str(empty), "drop_empty": True},
        r"e: it holds no row that can be used",
    )


def test_a_split_is_asked_for_where_there_are_several(corpus):
    folder, utterances = corpus
    for split in ("train", "test"):
        write_parquet(folder / "two" / f"{split}.parquet", utterances)
    source = {"type": "huggingface", "path": str(folder / "two")}
    refuse(source, "give a split, one of train, test")
    refuse({"type": "huggingface", "path": "someone/something"}, "give a split")
    found = read_source(source | {"split": "test[1:3]", "columns": {"id": None}})
    assert [u.id for u in found] == ["two/test[1:3]/0", "two/test[1:3]/1"]
    assert found[0].text == utterances[1].text


def test_a_table_without_the_audio_of_a_row(corpus):
    import pyarrow
    import pyarrow.parquet

    folder, _ = corpus
    rows = [{"audio": {"bytes": None, "path": None}, "text": "x", "language": "en"}]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({"audio": pyarrow.array([r["audio"] for r in rows], kind), "text": ["x"]})
    pyarrow.parquet.write_table(table, folder / "n.parquet")
    source = {"type": "huggingface", "path": str(folder / "n.parquet"), "language": "en"}
    refuse(source, r"n: row 0: its audio is missing; complete the row")


def test_rows_of_the_hub_must_hold_their_audio(corpus, monkeypatch):
    """load_dataset is replaced by one that gives a local table, as if it came from the Hub."""
    import datasets

    folder, utterances = corpus
    table = datasets.Dataset.from_parquet(str(write_paths(folder / "p.parquet", utterances)))
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: table)
    source = {"type": "huggingface", "path": "some/thing", "split": "test"}
    refuse(source, r"some/thing/test: row 0: it names a file .*refused of a data set of the Hub")


def test_sound_files_of_the_hub_that_need_torchcodec_say_what_to_do(monkeypatch):
    import datasets

    def fail(*arguments, **options):
        cause = ImportError("To support encoding audio data, please install 'torchcodec'.")
        raise datasets.exceptions.DatasetGenerationError("An error occurred") from cause

    monkeypatch.setattr(datasets, "load_dataset", fail)
    source = {"type": "huggingface", "path": "some/thing", "split": "test"}
    refuse(source, r"hf download .* --local-dir FOLDER\) and give path: FOLDER")


def test_an_audio_folder_whose_metadata_is_wrong(corpus):
    folder, utterances = corpus
    made = write_audiofolder(folder / "csv", utterances)
    source = {"type": "huggingface", "path": str(made)}
    whole = (made / "metadata.csv").read_text(encoding="utf-8")
    for old, new, message in [
        ("file_name,", "file,", r"metadata\.csv:2: no key 'file_name'"),
        ("u01,", "u01,,", r"metadata\.csv:3: expected 7 fields"),
        ("01.flac", "09.flac", r"metadata\.csv:3: no audio file"),
        (f",{utterances[1].text},", ",,", r"metadata\.csv:3: its text is missing"),
        ("0.75", "soon", r"metadata\.csv:2: 'end_s' must be seconds, received 'soon'"),
    ]:
        assert old in whole
        (made / "metadata.csv").write_text(whole.replace(old, new, 1), encoding="utf-8")
        refuse(source, message)
    refuse(source | {"streaming": True}, "an audio folder is not streamed")


@pytest.mark.parametrize(
    ("source", "package", "extra"),
    [
        ({"type": "lhotse", "path": "x"}, "lhotse", "lhotse"),
        ({"type": "huggingface", "path": "a/b", "split": "test"}, "datasets", "datasets"),
        ({"type": "webdataset", "path": "a-{0..1}.tar"}, "braceexpand", "webdataset"),
    ],
)
def test_a_missing_package_names_its_extra(monkeypatch, source, package, extra):
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    refuse(source, rf"needs the package {package}: pip install 'otreg\[{extra}\]'", ImportError)


def in_splits(made, utterances):
    """Files and metadata of a flat audio folder moved to a/ and data/b/, under one metadata file."""
    places = [f"{'a' if n % 2 else 'data/b'}/" for n in range(len(utterances))]
    for utterance, place in zip(utterances, places, strict=True):
        (made / place).mkdir(parents=True, exist_ok=True)
        name = utterance.audio.name
        (made / place / name).write_bytes(utterance.audio.read_bytes())
        replace_in(made / "metadata.csv", f"\n{name},", f"\n{place}{name},")


def test_a_split_of_an_audio_folder_with_one_metadata_file_is_its_own_rows(corpus):
    folder, utterances = corpus
    made = write_audiofolder(folder / "csv", utterances)
    source = {"type": "huggingface", "path": str(made)}
    refuse(source | {"split": "a"}, r"no file of split 'a', .*it has no folders: .*drop it")
    in_splits(made, utterances)
    assert len(read_source(source)) == 4
    for split in ("a", "b"):
        found = read_source(source | {"split": split})
        assert [u.id for u in found] == [u.id for u in utterances][split == "a" :: 2]
    refuse(source | {"split": "test"}, r"no file of split 'test', .*its files are in a, data/b: ")
    options = {"name": "de", "revision": "main", "data_files": "x.csv"}
    refuse(source | options, r"an audio folder has no name or revision or data_files; drop it")


@pytest.mark.parametrize("name", ["", "."])
def test_a_row_that_names_no_file_is_named(corpus, name):
    folder, utterances = corpus
    path = write_nemo(folder / "m.json", utterances)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    del lines[1]["id"]
    lines[1]["audio_filepath"] = name
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    refuse({"type": "nemo", "path": str(path)}, r"m\.json:2: .*audio")
    made = write_audiofolder(folder / "jsonl", utterances, kind="jsonl")
    path = made / "metadata.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    del lines[1]["id"]
    lines[1]["file_name"] = name
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    refuse({"type": "huggingface", "path": str(made)}, r"metadata\.jsonl:2: ")


def test_tar_members_that_promise_more_than_they_should(tmp_path):
    source = pack(tmp_path / "s.tar", [("u1.txt", bytes(16_000_001))]) | {"language": "en"}
    refuse(source, r"s\.tar: 'u1\.txt' has 16000001 bytes; expected at most 16 MB of text")
    with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        sparse = tarfile.TarInfo("u1.wav")
        sparse.pax_headers = {"GNU.sparse.size": str(2**40), "GNU.sparse.map": "0,0"}
        tar.addfile(sparse)
    refuse(source, r"s\.tar: 'u1\.wav' is sparse, .*pack it without --sparse")
