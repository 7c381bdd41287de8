"""`prepare split`: pieces in a manifest, resuming, and rows that cannot be split."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import planted
import pytest

import otreg.prepare.split
from otreg.cli import main
from otreg.data.audio import audio_info
from otreg.data.manifest import read_manifest, write_manifest
from otreg.prepare.split import prepare_split


@pytest.fixture
def exact(tmp_path: Path) -> Path:
    return planted.save_planted(tmp_path, num_utterances=6)[1]


def limit_of(manifest: Path) -> float:
    """Of the planted rows some are longer, some not."""
    lengths = sorted(audio_info(row).duration_s for row in read_manifest(manifest))
    return (lengths[2] + lengths[3]) / 2


def test_long_rows_are_split_and_short_ones_kept(exact: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out.jsonl"
    max_s = limit_of(exact)
    command = ["prepare", "split", str(exact), "--out", str(out), "--max-s", str(max_s), "--quiet"]
    assert main(command) == 0
    assert "split 3, kept 3" in capsys.readouterr().out
    rows, found = read_manifest(exact), read_manifest(out)
    assert all(audio_info(row).duration_s <= max_s for row in found)
    for row in rows:
        parts = [part for part in found if part.id.split("#")[0] == row.id]
        assert " ".join(part.text for part in parts) == row.text
        assert (parts == [row]) == (audio_info(row).duration_s <= max_s)
    assert main(command) == 0  # up to date


def test_a_broken_run_goes_on_where_it_was(exact: Path, tmp_path: Path, monkeypatch) -> None:
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    max_s = limit_of(exact)
    prepare_split([exact], whole, max_s=max_s, quiet=True)
    seen: list[str] = []
    split = otreg.prepare.split.word_pieces

    def breaks(row, max_s):
        if row.id == "u3" and "u3" not in seen:
            seen.append(row.id)
            raise KeyboardInterrupt
        seen.append(row.id)
        return split(row, max_s)

    monkeypatch.setattr(otreg.prepare.split, "word_pieces", breaks)
    with pytest.raises(KeyboardInterrupt):
        prepare_split([exact], broken, max_s=max_s, quiet=True)
    prepare_split([exact], broken, max_s=max_s, quiet=True)
    assert seen == ["u0", "u1", "u2", "u3", "u3", "u4", "u5"]
    assert broken.read_bytes() == whole.read_bytes()


def test_rows_without_words_are_refused_or_left_out_and_counted(
    exact: Path, tmp_path: Path
) -> None:
    max_s = limit_of(exact)
    rows = read_manifest(exact)
    long = next(n for n, row in enumerate(rows) if audio_info(row).duration_s > max_s)
    rows[long] = replace(rows[long], words=None)
    bare, out = tmp_path / "bare.jsonl", tmp_path / "out.jsonl"
    write_manifest(bare, rows)
    with pytest.raises(ValueError, match=rf"'{rows[long].id}': it lasts .*prepare words.*--skip"):
        prepare_split([bare], out, max_s=max_s, quiet=True)
    made = prepare_split([bare], out, max_s=max_s, quiet=True, skip=True)
    assert made["counts"]["skipped"] == {"no words": 1}
    assert (made["counts"]["split"], made["counts"]["kept"]) == (2, 3)


def test_pieces_of_ogg_files_are_warned_of(exact: Path, tmp_path: Path, caplog) -> None:
    import soundfile

    row = max(read_manifest(exact), key=lambda row: audio_info(row).duration_s)
    samples, rate_hz = soundfile.read(row.audio)
    soundfile.write(tmp_path / "a.ogg", samples, rate_hz)
    write_manifest(tmp_path / "ogg.jsonl", [replace(row, audio=tmp_path / "a.ogg")])
    with caplog.at_level(logging.WARNING):
        prepare_split(
            [tmp_path / "ogg.jsonl"], tmp_path / "out.jsonl", max_s=limit_of(exact), quiet=True
        )
    assert "decoded from the start of its file; convert them to flac" in caplog.text
