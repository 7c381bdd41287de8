import json
import os
from pathlib import Path

import pytest

from otreg.data import ManifestError, Utterance, read_manifest, read_manifests, write_manifest


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.wav").write_bytes(b"a")
    (tmp_path / "corpus" / "b.wav").write_bytes(b"b")
    (tmp_path / "outside.wav").write_bytes(b"c")
    return tmp_path / "corpus"


def line(**changes):
    record = {"id": "u1", "audio": "a.wav", "text": "one", "language": "en", **changes}
    return json.dumps({key: value for key, value in record.items() if value != "ABSENT"})


def write(folder, *lines):
    path = folder / "m.jsonl"
    content = [part.encode() if isinstance(part, str) else part for part in lines]
    path.write_bytes(b"\n".join(content) + b"\n")
    return path


def test_every_key_is_read_and_paths_become_absolute(folder):
    path = write(
        folder,
        line(),
        line(id="u2", audio="b.wav", text="zwei", speaker="s", start_s=0.5, end_s=2),
    )
    first, second = read_manifest(path)
    assert first == Utterance("u1", (folder / "a.wav").resolve(), "one", "en")
    assert first.source == f"{path}:1"
    assert (second.speaker, second.start_s, second.end_s) == ("s", 0.5, 2.0)


def test_blank_lines_byte_order_mark_and_windows_line_ends_carry_no_data(folder):
    path = write(folder, b"\xef\xbb\xbf" + line().encode() + b"\r", "", "  ", line(id="u2"), "")
    assert [(u.id, u.source) for u in read_manifest(path)] == [
        ("u1", f"{path}:1"),
        ("u2", f"{path}:4"),
    ]


def test_line_separators_inside_a_text_do_not_end_the_line(folder):
    text = "one\u2028two\u0085three"
    record = line(text="TEXT").replace("TEXT", text)
    assert read_manifest(write(folder, record))[0].text == text


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "not valid JSON at column 2"),
        ("[1, 2]", "expected a JSON object .* received a list"),
        (line() + line(), "not valid JSON"),
        ("[" * 100_000, "not usable JSON"),
        (line(txt="x", text="ABSENT"), "unknown key 'txt'; did you mean 'text'"),
        (line(zebra="x"), "unknown key 'zebra'; known: attributes, audio"),
        (line(text="ABSENT"), "the key 'text' is missing"),
        (line(id="ABSENT"), "the key 'id' is missing"),
        (line(text=3), "'text' must be a string, received a number: 3"),
        (line(text=None), "'text' must be a string, received a null"),
        (line(text=" \t"), "'text' is empty"),
        (line(language=""), "'language' is empty"),
        (line(id="a\nb"), "cannot be printed"),
        (line(speaker=7), "'speaker' must be a string"),
        (line(start_s="1"), "'start_s' must be a number of seconds, received a string"),
        (line(start_s=True), "received a boolean"),
        (line(start_s=-0.1), "finite and not negative"),
        (line(end_s=float("nan")), "NaN is not a JSON number"),
        (line(end_s=1).replace("1}", "1e999}"), "finite and not negative, received inf"),
        (line(end_s=1).replace("1}", "1" + "0" * 400 + "}"), "finite and not negative"),
        (line(end_s=1).replace("1}", "1" * 5000 + "}"), "not usable JSON|finite and not negative"),
        (line(start_s=2, end_s=2), "end_s 2.0 does not come after start_s 2.0"),
        (line(end_s=0), "does not come after start_s 0.0"),
        (line()[:-1] + ', "id": "again"}', "the key 'id' stands twice"),
        (line(text="\ud800"), "half of a surrogate pair"),
        (line().encode().replace(b"one", b"\xff"), "not UTF-8 .byte 0xff at column"),
        (line(audio="missing.wav"), "no audio file 'missing.wav'"),
        (line(audio="."), "no audio file"),
        (line(audio="a\0b"), "no usable path"),
        (line(audio="x" * 5000), "no usable path|no audio file"),
        (
            line(audio="../outside.wav"),
            "leads out of .*--root FOLDER .*data.root in a configuration, root= in Python",
        ),
        (line(audio="sub/../../outside.wav"), "leads out of"),
        (line(audio="/etc/hostname"), "leads out of"),
    ],
)
def test_a_bad_line_is_refused_by_file_and_line(folder, bad, message):
    path = write(folder, line(id="u0"), "", bad)
    with pytest.raises(ManifestError, match=message) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path}:3: ")


def test_a_symbolic_link_may_not_lead_out_of_the_root(folder):
    os.symlink(folder.parent / "outside.wav", folder / "link.wav")
    os.symlink(folder.parent, folder / "up")
    for audio in ("link.wav", "up/outside.wav"):
        with pytest.raises(ManifestError, match=r":1: 'audio' .* leads out of"):
            read_manifest(write(folder, line(audio=audio)))


def test_a_loop_of_links_is_refused(folder):
    os.symlink(folder / "loop.wav", folder / "loop.wav")
    with pytest.raises(ManifestError, match=r":1: (no audio file|'audio' .* no usable path)"):
        read_manifest(write(folder, line(audio="loop.wav")))


def test_links_and_absolute_paths_inside_the_root_are_fine(folder):
    os.symlink(folder / "a.wav", folder / "link.wav")
    path = write(folder, line(audio="link.wav"), line(id="u2", audio=str(folder / "b.wav")))
    assert [u.audio.name for u in read_manifest(path)] == ["a.wav", "b.wav"]


def test_root_decides_where_paths_start(folder):
    path = write(folder, line(audio="outside.wav"))
    assert read_manifest(path, root=folder.parent)[0].audio.name == "outside.wav"


def test_a_root_that_is_no_folder_is_refused(folder):
    path = write(folder, line())
    for root in (folder / "absent", folder / "a.wav"):
        with pytest.raises(ManifestError, match=r"m\.jsonl: the root '.*' is no folder"):
            read_manifest(path, root=root)


def test_an_id_twice_names_both_lines(folder):
    path = write(folder, line(), line(id="u2"), line(audio="b.wav"))
    with pytest.raises(ManifestError, match=":3: id 'u1' is already used on line 1"):
        read_manifest(path)


def test_an_id_in_two_manifests_names_both(folder):
    first = write(folder, line())
    second = folder / "n.jsonl"
    second.write_text(line())
    with pytest.raises(ManifestError, match=r"n\.jsonl:1: .*already used by .*m\.jsonl:1"):
        read_manifests([first, second])


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_manifest_is_refused(folder, content):
    path = folder / "empty.jsonl"
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=r"empty\.jsonl: the manifest is empty"):
        read_manifest(path)


def test_a_missing_manifest_is_refused(folder):
    with pytest.raises(
        ManifestError, match=r"absent\.jsonl: cannot read the manifest: No such file"
    ):
        read_manifest(folder / "absent.jsonl")
    with pytest.raises(ManifestError, match="cannot read"):
        read_manifest(folder)


def test_what_is_written_reads_back_equal(folder):
    utterances = [
        Utterance("u1", folder / "a.wav", "ein \u2028 Müller", "de", "s", 0.25, 1.5),
        Utterance("u2", folder / "sub" / ".." / "b.wav", "हिन्दी", "hi"),
    ]
    (folder / "sub").mkdir()
    path = folder / "out.jsonl"
    write_manifest(path, utterances)
    back = read_manifest(path)
    assert [u.text for u in back] == [u.text for u in utterances]
    assert back[0] == Utterance("u1", (folder / "a.wav").resolve(), *list_fields(utterances[0]))
    assert json.loads(path.read_text().split("\n")[1])["audio"] == "b.wav"
    assert "speaker" not in path.read_text().split("\n")[1]


def list_fields(utterance):
    return (
        utterance.text,
        utterance.language,
        utterance.speaker,
        utterance.start_s,
        utterance.end_s,
    )


def test_nothing_is_written_that_could_not_be_read(folder):
    path = folder / "out.jsonl"
    write_manifest(path, [Utterance("u1", folder / "a.wav", "one", "en")])
    before = path.read_text()
    for bad, message in [
        (Utterance("u2", folder.parent / "outside.wav", "x", "en"), "leads out of"),
        (Utterance("u2", folder / "a.wav", "", "en"), "'text' is empty"),
        (Utterance("u2", folder / "a.wav", "x", "en", end_s=float("nan")), "finite"),
        (Utterance("u1", folder / "a.wav", "x", "en"), "already used"),
    ]:
        with pytest.raises(ManifestError, match=message):
            write_manifest(path, [Utterance("u1", folder / "a.wav", "one", "en"), bad])
    with pytest.raises(ManifestError, match="no utterance to write"):
        write_manifest(path, [])
    assert path.read_text() == before


def test_the_documented_manifest_reads(folder):
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    path = folder / "documented.jsonl"
    blocks = [block.split("```")[0] for block in page.split("```json\n")[1:]]
    path.write_text("".join(blocks), encoding="utf-8")
    (folder / "wav").mkdir()
    for name in ("u1.flac", "long.mp3"):
        (folder / "wav" / name).write_bytes(b"a")
    rows = read_manifest(path)
    assert [u.start_s for u in rows] == [None, 12.5, *[None] * 5]
    assert len(rows[2].words) == 2
    assert [len(row.messages) for row in rows[3:6]] == [3, 2, 2]
    assert rows[6].attributes["native"] is True
    assert rows[6].custom["notes"][1] == {"at_s": 0.7}


def test_the_manifests_of_the_real_recordings_read(real_speech):
    assert len(read_manifest(real_speech / "fsdd" / "manifest.jsonl")) == 1500
    assert {u.language for u in read_manifest(real_speech / "lj" / "manifest.jsonl")} == {"en"}
