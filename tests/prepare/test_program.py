from __future__ import annotations

import json
from pathlib import Path

import planted
import pytest

from otreg.data.manifest import read_manifest
from otreg.prepare.digests import content_digest, model_identity
from otreg.prepare.journal import Journal
from otreg.prepare.program import Program, Unusable


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return planted.save_planted(tmp_path)[0]


def run(plain: Path, out: Path, compute, *, settings=None, batch_size=1, **options):
    settings = settings or {"a": 1}
    with Program("toy", [plain], out, settings, quiet=True, **options) as program:
        rows = program.read()
        if program.is_done(rows):
            return None
        results = program.map(rows, compute, settings, batch_size=batch_size)
        program.publish(
            [row for row, result in zip(rows, results, strict=True) if result is not None],
            made=len(results),
        )
        return results


def lengths(rows):
    return [len(row.text) for row in rows]


@pytest.mark.parametrize("tail", [b'{"key": "c", "ma', b"\0\0\0\0", b'{"key": "c"}\n', b"7\n"])
def test_a_torn_line_is_cut_off_and_the_rest_kept(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "journal"
    with Journal(path) as journal:
        journal["a"], journal["b"] = [0.1], {"x": "é"}
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    with Journal(path) as journal:
        assert ("c" in journal, len(journal)) == (False, 2)
        assert journal["b"] == {"x": "é"}
        journal["c"] = 3
        assert (journal["a"], journal["c"]) == ([0.1], 3)
    assert path.read_bytes() == whole + b'{"key": "c", "made": 3}\n'


def test_results_of_a_broken_run_are_not_computed_again(plain: Path, tmp_path: Path) -> None:
    seen: list[str] = []

    def breaks(rows):
        if len(seen) >= 4:
            raise KeyboardInterrupt
        seen.extend(row.id for row in rows)
        return lengths(rows)

    out = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(plain, out, breaks)
    assert not out.exists()
    later: list[str] = []
    results = run(plain, out, lambda rows: later.extend(row.id for row in rows) or lengths(rows))
    assert (seen, later) == (["u0", "u1", "u2", "u3"], ["u4", "u5"])
    assert results == lengths(read_manifest(plain))
    beside = sorted(path.name for path in tmp_path.glob("out.jsonl*"))
    assert beside == ["out.jsonl", "out.jsonl.provenance.json"]


def test_a_batch_is_computed_whole_after_a_break(plain: Path, tmp_path: Path) -> None:
    """The first batch of three lost its last line to a kill."""
    out = tmp_path / "out.jsonl"

    def breaks(rows):
        if rows[0].id == "u3":
            raise KeyboardInterrupt
        return lengths(rows)

    with pytest.raises(KeyboardInterrupt):
        run(plain, out, breaks, batch_size=3)
    journal = tmp_path / "out.jsonl.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:2]) + lines[2][:10])
    batches = []
    run(plain, out, lambda rows: batches.append(len(rows)) or lengths(rows), batch_size=3)
    assert batches == [3, 3]


@pytest.mark.parametrize("change", ["settings", "text", "audio"])
def test_a_result_of_other_content_or_settings_is_made_anew(
    plain: Path, tmp_path: Path, change: str
) -> None:
    out = tmp_path / "out.jsonl"

    def breaks(rows):
        if rows[0].id == "u5":
            raise KeyboardInterrupt
        return lengths(rows)

    with pytest.raises(KeyboardInterrupt):
        run(plain, out, breaks)
    if change == "text":
        plain.write_text(plain.read_text().replace('"id": "u2"', '"speaker": "s", "id": "u2"'))
    if change == "audio":
        (tmp_path / "wav/2.wav").write_bytes((tmp_path / "wav/3.wav").read_bytes())
    seen: list[str] = []
    settings = {"a": 2 if change == "settings" else 1}
    run(
        plain,
        out,
        lambda rows: seen.extend(row.id for row in rows) or lengths(rows),
        settings=settings,
    )
    assert seen == ([f"u{i}" for i in range(6)] if change == "settings" else ["u2", "u5"])


def test_the_same_again_is_done_at_once_and_otherwise_refused(plain: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    run(plain, out, lengths)
    (tmp_path / "out.jsonl.journal").write_text("left by a kill at the very end")
    assert run(plain, out, None) is None
    assert not (tmp_path / "out.jsonl.journal").exists()
    with pytest.raises(ValueError, match=r"was not made from this by these settings.*--overwrite"):
        run(plain, out, lengths, settings={"a": 2})
    assert run(plain, out, lengths, settings={"a": 2}, overwrite=True) is not None
    out.write_text(out.read_text() + "\n")
    with pytest.raises(ValueError, match="was not made from this"):
        run(plain, out, lengths, settings={"a": 2})


def test_provenance_says_what_out_was_made_of(plain: Path, tmp_path: Path) -> None:
    import hashlib

    out = tmp_path / "out.jsonl"
    run(plain, out, lengths, command="otreg prepare toy")
    made = json.loads((tmp_path / "out.jsonl.provenance.json").read_text())
    assert made["command"] == "otreg prepare toy"
    assert (made["program"], made["settings"]) == ("toy", {"a": 1})
    assert made["versions"]["torch"]
    sha256 = hashlib.sha256(plain.read_bytes()).hexdigest()
    assert made["inputs"] == [{"path": str(plain), "sha256": sha256}]
    assert made["output"]["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert made["counts"] == {"rows": 6, "made": 6, "skipped": {}}


def test_unusable_rows_are_an_error_or_left_out_and_counted(plain: Path, tmp_path: Path) -> None:
    def picky(rows):
        return [Unusable("odd", f"{row.text!r} is odd") if row.id == "u1" else 1 for row in rows]

    out = tmp_path / "out.jsonl"
    with pytest.raises(ValueError, match=r"plain.jsonl:2: utterance 'u1': .* is odd \(--skip"):
        run(plain, out, picky)
    assert run(plain, out, picky, skip=True) == [1, None, 1, 1, 1, 1]
    assert [row.id for row in read_manifest(out)] == ["u0", "u2", "u3", "u4", "u5"]
    made = json.loads((tmp_path / "out.jsonl.provenance.json").read_text())
    assert made["counts"]["skipped"] == {"odd": 1}
    with pytest.raises(ValueError, match="no row is left"):
        run(
            plain,
            tmp_path / "none.jsonl",
            lambda rows: [Unusable("odd", "odd")] * len(rows),
            skip=True,
        )


def test_audio_must_lie_below_out_or_below_the_root(plain: Path, tmp_path: Path) -> None:
    below = tmp_path / "lists" / "out.jsonl"
    with pytest.raises(
        ValueError, match=f"does not lie below .*such as {tmp_path}, or give --root"
    ):
        run(plain, below, lengths)
    run(plain, below, lengths, root=tmp_path)
    assert [row.audio for row in read_manifest(below, root=tmp_path)] == [
        row.audio for row in read_manifest(plain)
    ]
    run(plain, tmp_path / "out.jsonl", lengths)
    assert read_manifest(tmp_path / "out.jsonl") == read_manifest(plain)


def test_out_is_no_input_no_folder_and_nobody_elses(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="both read and written"):
        run(plain, plain, lengths)
    with pytest.raises(ValueError, match="is a folder"):
        run(plain, tmp_path, lengths)
    out = tmp_path / "out.jsonl"
    with (
        Program("toy", [plain], out, {}),
        pytest.raises(ValueError, match="another process is working on"),
    ):
        run(plain, out, lengths)
    assert run(plain, out, lengths) is not None


def test_a_rows_digest_follows_its_content_and_not_its_place(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    row = read_manifest(plain)[0]
    moved = tmp_path / "elsewhere" / "x.wav"
    moved.write_bytes(row.audio.read_bytes())
    other = tmp_path / "elsewhere" / "m.jsonl"
    line = json.loads(plain.read_text().splitlines()[0]) | {"audio": "x.wav"}
    other.write_text("\n" + json.dumps(line))
    assert content_digest(read_manifest(other)[0]) == content_digest(row)
    other.write_text(json.dumps(line | {"custom": {"a": 1}}))
    assert content_digest(read_manifest(other)[0]) != content_digest(row)


def test_a_model_folder_is_known_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    first = model_identity(tmp_path)
    (tmp_path / "config.json").write_text("{ }")
    assert model_identity(tmp_path)["sha256"] != first["sha256"]
    assert model_identity("someone/model") == {"source": "someone/model", "commit": None}


def test_the_pages_program_of_ones_own_runs(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "prepare.md").read_text(encoding="utf-8")
    snippet = next(part for part in page.split("```") if "def " not in part and "tempo" in part)
    monkeypatch.chdir(plain.parent)
    plain.rename(plain.parent / "train.jsonl")
    exec(snippet.removeprefix("python"), {})
    rows = read_manifest("out.jsonl")
    assert [row.attributes["tempo"] for row in rows] == [len(row.text) for row in rows]
