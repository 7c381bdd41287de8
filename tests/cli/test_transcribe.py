"""`otreg transcribe` on recordings that are longer than the model takes: 2 s, with a tiny model."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from tiny_run import run_config, save_towers, stage

from otreg.cli import main
from otreg.cli.transcript_files import transcript_files, write_transcript
from otreg.training import config_from_dict
from otreg.training.building import build_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("model")
    config = config_from_dict(run_config(save_towers(root / "towers"), Path("x"), [stage()]))
    model, processor = build_model(config.model)
    model.save_pretrained(root / "model")
    processor.save_pretrained(root / "model")
    return str(root / "model")


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """7 s of noise with a pause at 1.5 s and none after it."""
    samples = 0.1 * np.random.default_rng(0).standard_normal(16_000 * 7)
    samples[int(16_000 * 1.35) : int(16_000 * 1.65)] = 0
    path = tmp_path_factory.mktemp("audio") / "talk.wav"
    soundfile.write(path, samples, 16_000)
    return path


def test_a_long_recording_is_one_line_and_what_is_not_sure_goes_to_stderr(
    model, talk, capsys
) -> None:
    capsys.readouterr()
    assert main(["transcribe", model, str(talk), "--max-new-tokens", "3"]) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(rf"{talk}\t.*\n", out, re.DOTALL)
    assert f"{talk}, 0.0 to 1.5 s: decoding stopped at the most tokens" in err
    assert "raise --max-new-tokens" in err


def test_json_says_where_cuts_are_and_srt_has_their_times(model, talk, tmp_path) -> None:
    command = ["transcribe", model, str(talk), "--max-new-tokens", "3", "--language", "en"]
    assert main([*command, "--format", "json", "--out", str(tmp_path / "a.json")]) == 0
    record = json.loads((tmp_path / "a.json").read_text())
    assert (record["file"], record["language"]) == (str(talk), "en")
    assert (record["policy"], record["max_chunk_s"], record["overlap_s"]) == ("silence", 2, 0.5)
    cuts = [segment["cut"] for segment in record["segments"]]
    assert cuts[0] == "silence"
    assert set(cuts[1:-1]) == {"overlap"}
    assert record["segments"][0]["end_s"] == pytest.approx(1.5, abs=0.1)
    assert (
        record["num_hit_limit"] == sum(segment["hit_limit"] for segment in record["segments"]) > 0
    )
    assert main([*command, "--format", "srt", "--out", str(tmp_path)]) == 0
    subtitles = (tmp_path / "talk.srt").read_text()
    for number, segment in enumerate((s for s in record["segments"] if s["text"].strip()), 1):
        assert f"{number}\n00:00:{segment['start_s']:06.3f}".replace(".", ",") in subtitles


def test_several_recordings_go_into_a_folder_or_to_the_terminal_line_by_line(
    model, talk, tmp_path, capsys
) -> None:
    other = tmp_path / "other.wav"
    samples, _ = soundfile.read(talk)
    soundfile.write(other, samples[:16_000], 16_000)
    command = ["transcribe", model, str(talk), str(other), "--max-new-tokens", "3"]
    assert main([*command, "--format", "vtt", "--out", str(tmp_path / "new")]) == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["other.vtt", "talk.vtt"]
    capsys.readouterr()
    assert main([*command, "--format", "json", "--chunking", "fixed", "--overlap-s", "0.2"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["file"] for record in records] == [str(talk), str(other)]
    assert [len(record["segments"]) for record in records] == [4, 1]


MISTAKES = {
    "a format": (["--format", "doc"], "--format doc: expected one of text, srt, vtt, json"),
    "a policy": (["--chunking", "word"], "policy must be silence or fixed"),
    "chunks too long": (["--max-chunk-s", "3"], "more than the model takes at once, 2 s"),
    "much overlap": (["--overlap-s", "1.5"], "an overlap of at most half"),
    "no silence": (["--min-silence-s", "0"], "min_silence_s must be above 0"),
    "subtitles of two": (["{talk}", "--format", "srt"], "needs --out FOLDER"),
    "a file for two": (["{other}", "--out", "{there}"], "recordings need a folder"),
    "one name for two": (["{talk}", "--out", "{tmp}/new"], "would both be written to"),
    "a file that is there": (["--out", "{there}"], "give --overwrite"),
    "its own recording": (["--out", "{talk}", "--overwrite"], "both read and written"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_refused_before_anything_is_decoded(
    mistake: str, model, talk, tmp_path, capsys
) -> None:
    options, message = MISTAKES[mistake]
    there = tmp_path / "there.txt"
    there.write_text("kept")
    names = {"talk": talk, "other": talk, "there": there, "tmp": tmp_path}
    before = talk.read_bytes()
    capsys.readouterr()
    assert main(["transcribe", model, str(talk), *(o.format(**names) for o in options)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert (there.read_text(), talk.read_bytes()) == ("kept", before)


def test_a_file_that_is_there_is_replaced_when_asked(model, talk, tmp_path) -> None:
    out = tmp_path / "a.txt"
    out.write_text("old")
    command = ["transcribe", model, str(talk), "--max-new-tokens", "2", "--out", str(out)]
    assert main([*command, "--overwrite"]) == 0
    assert out.read_text() != "old"
    assert not list(tmp_path.glob("*.tmp"))


def test_a_slash_at_the_end_names_a_folder(tmp_path: Path) -> None:
    one = [Path("talk.mp3")]
    found = transcript_files(one, f"{tmp_path}/new/", "json", ".json", overwrite=False)
    assert found == [tmp_path / "new" / "talk.json"]
    found = transcript_files(one, f"{tmp_path}/new", "json", ".json", overwrite=False)
    assert found == [tmp_path / "new"]


def test_a_transcript_touches_no_other_file_and_leaves_none_behind(tmp_path) -> None:
    (tmp_path / "a.txt.tmp").write_text("mine")
    write_transcript(tmp_path / "a.txt", "said")
    (tmp_path / "b.txt" / "taken").mkdir(parents=True)
    with pytest.raises(OSError, match=r"b\.txt"):
        write_transcript(tmp_path / "b.txt", "said")
    with pytest.raises(UnicodeEncodeError):
        write_transcript(tmp_path / "c.txt", "\udcff")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "a.txt.tmp", "b.txt"]
    assert (tmp_path / "a.txt.tmp").read_text() == "mine"
