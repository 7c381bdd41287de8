"""Whatever a row of a manifest may hold is written so that it reads back equal."""

from dataclasses import replace

import numpy as np
import pytest

from otreg.data import ManifestError, Utterance, Word, read_manifest, write_manifest

OWN = {"type": "audio"}
BACK = {"role": "assistant", "content": "yes"}


def asked(*parts):
    return [{"role": "user", "content": list(parts)}, BACK]


def text(content):
    return {"type": "text", "text": content}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "corpus" / "more").mkdir(parents=True)
    for name in ("a.wav", "b.wav", "more/c.wav", "../outside.wav"):
        (tmp_path / "corpus" / name).write_bytes(b"a")
    return tmp_path / "corpus"


def random_row(rng, number, folder):
    """A row that uses a random choice of all that a manifest can hold."""

    def some(share=0.5):
        return rng.random() < share

    def string():
        return "".join(rng.choice(list('ab é\u2028"\\{日\U0001f600\n'), size=6)) + "x"

    def span():
        start_s = round(float(rng.random()), 3)
        return {"start_s": start_s if some() else None, "end_s": start_s + 1.0 if some() else None}

    def clip():
        made = {"type": "audio", "audio": folder / "more" / "c.wav"}
        made |= {"text": string()} if some() else {}
        return made | {key: value for key, value in span().items() if value is not None}

    def json_value(depth):
        kind = rng.integers(7 if depth else 5)
        scalars = [None, bool(some()), int(rng.integers(-9, 9)), float(rng.normal()), string()]
        if kind < 5:
            return scalars[kind]
        inner = [json_value(depth - 1) for _ in range(rng.integers(4))]
        return inner if kind == 5 else {f"{string()}{n}": value for n, value in enumerate(inner)}

    own_audio, messages = True, None
    if some():
        own_audio = bool(some())
        parts = [clip() if some() else {"type": "text", "text": string()} for _ in range(3)]
        parts += [{"type": "audio"}] * int(own_audio)
        system = [{"role": "system", "content": (text(string()),)}] if some() else []
        answer = [{"role": "assistant", "content": (text(string()),)}] if some() else []
        messages = (*system, {"role": "user", "content": tuple(parts)}, *answer)
    row = Utterance(f"u{number}", None, language="en", messages=messages)
    if own_audio:
        times = np.sort(rng.random(4)).tolist()
        words = (Word("a", times[0], times[2]), Word(string(), times[1], times[3]))
        row = replace(row, audio=folder / "a.wav", text=string(), **span())
        row = replace(row, words=words if some() else None)
    elif some():
        row = replace(row, text=string())
    return replace(
        row,
        speaker=string() if some() else None,
        attributes={"a": json_value(0), "b": json_value(0)} if some() else None,
        custom={"a": json_value(3)} if some() else None,
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("with_root", [False, True])
def test_any_row_that_is_written_reads_back_equal(folder, seed, with_root):
    rng = np.random.default_rng(seed)
    rows = [random_row(rng, number, folder) for number in range(100)]
    path = folder.parent / "elsewhere" / "out.jsonl" if with_root else folder / "out.jsonl"
    root = {"root": folder} if with_root else {}
    write_manifest(path, rows, **root)
    back = read_manifest(path, **root)
    assert back == rows
    assert [row.source for row in back] == [f"{path}:{number}" for number in range(1, 101)]
    content = path.read_bytes()
    write_manifest(path, back, **root)
    assert path.read_bytes() == content
    assert str(folder) not in path.read_text(encoding="utf-8")


def test_messages_as_users_write_them_can_be_written(folder, monkeypatch):
    monkeypatch.chdir(folder)
    clip = {"type": "audio", "audio": "more/c.wav"}
    row = Utterance("u1", None, language="en", messages=tuple(asked(clip, text("?"))))
    write_manifest(folder / "more" / "out.jsonl", [row])
    assert read_manifest(folder / "more" / "out.jsonl")[0].messages == (
        {"role": "user", "content": ({**clip, "audio": folder / "more" / "c.wav"}, text("?"))},
        {"role": "assistant", "content": (text("yes"),)},
    )
    assert '"audio": "c.wav"' in (folder / "more" / "out.jsonl").read_text()


def test_audio_named_through_a_linked_folder_is_written_without_the_link(folder):
    (folder.parent / "link").symlink_to(folder)
    row = Utterance("u1", folder.parent / "link" / "a.wav", "one", "en")
    write_manifest(folder / "out.jsonl", [row])
    assert '"audio": "a.wav"' in (folder / "out.jsonl").read_text()
    assert read_manifest(folder / "out.jsonl") == [replace(row, audio=folder / "a.wav")]


def test_a_clip_outside_the_folder_is_not_written(folder):
    clip = {"type": "audio", "audio": folder.parent / "outside.wav"}
    row = Utterance("u1", None, language="en", messages=tuple(asked(clip)))
    with pytest.raises(ManifestError, match=r"out\.jsonl:1: messages\[0\].*leads out of"):
        write_manifest(folder / "out.jsonl", [row])
    write_manifest(folder / "out.jsonl", [row], root=folder.parent)
    with pytest.raises(ManifestError, match="no audio file"):
        read_manifest(folder / "out.jsonl")
