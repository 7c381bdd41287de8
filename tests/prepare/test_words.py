"""`prepare words`: sources, resuming after a kill, and errors side by side."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import planted
import pytest

from otreg.cli import main
from otreg.data.interleave import Interleaving
from otreg.data.manifest import Utterance, Word, read_manifest, write_manifest
from otreg.prepare.ctc_words import CtcWords
from otreg.prepare.words import prepare_words


@pytest.fixture
def corpus(tmp_path: Path) -> tuple[Path, Path]:
    return planted.save_planted(tmp_path, num_utterances=8)


@pytest.fixture
def source(tmp_path: Path) -> CtcWords:
    return CtcWords(
        planted.PlantedCtc(), planted.feature_extractor(), planted.tokenizer(tmp_path / "ctc")
    )


def test_words_are_added_and_all_else_is_kept(corpus, source, tmp_path: Path) -> None:
    plain, exact = corpus
    rows = read_manifest(plain)
    rows[2] = replace(rows[2], speaker="s", attributes={"pitch": 3}, custom={"any": [1]})
    write_manifest(plain, rows)
    out = tmp_path / "out.jsonl"
    made = prepare_words([plain], out, source, quiet=True)
    assert made["counts"] == {"rows": 8, "made": 8, "kept": 0, "without_audio": 0, "skipped": {}}
    found = read_manifest(out)
    assert [replace(row, words=None) for row in found] == rows
    assert [row.words for row in found] == [row.words for row in read_manifest(exact)]


def test_the_words_are_those_that_interleaving_cuts_at(source, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    planted.speak(tmp_path / "a.wav", "see a zoo cab book", rng)
    text = "« See - a zoo, cab , book! »"
    write_manifest(tmp_path / "in.jsonl", [Utterance("u", tmp_path / "a.wav", text, "en")])
    prepare_words([tmp_path / "in.jsonl"], tmp_path / "out.jsonl", source, quiet=True)
    (found,) = read_manifest(tmp_path / "out.jsonl")
    document = Interleaving((1, 2), (1, 2))(found)
    assert "".join(segment.text for segment in document.segments) == text
    assert len(document.clips) > 0


def test_exact_words_are_kept_unless_they_are_to_be_replaced(corpus, source, tmp_path) -> None:
    _, exact = corpus
    rows = read_manifest(exact)
    wrong = replace(rows[0], words=(Word(rows[0].text, 0.0, 0.01),))
    text = Utterance(
        "t", None, language="en", messages=({"role": "assistant", "content": "a text"},)
    )
    write_manifest(tmp_path / "mixed.jsonl", [wrong, replace(rows[1], words=None), text])
    kept = tmp_path / "kept.jsonl"
    made = prepare_words([tmp_path / "mixed.jsonl"], kept, source, quiet=True)
    assert made["counts"] == {"rows": 3, "made": 1, "kept": 1, "without_audio": 1, "skipped": {}}
    first, second, third = read_manifest(kept)
    assert (first.words, second.words, third.audio) == (wrong.words, rows[1].words, None)
    replaced = tmp_path / "replaced.jsonl"
    prepare_words([tmp_path / "mixed.jsonl"], replaced, source, replace_words=True, quiet=True)
    assert read_manifest(replaced)[0].words == rows[0].words


def test_rows_without_words_need_a_source(corpus, tmp_path: Path) -> None:
    plain, exact = corpus
    with pytest.raises(ValueError, match=r"'u0' has no words, as 8 of 8 rows; .*--ctc MODEL"):
        prepare_words([plain], tmp_path / "out.jsonl", quiet=True)
    prepare_words([exact], tmp_path / "out.jsonl", quiet=True)
    assert read_manifest(tmp_path / "out.jsonl") == read_manifest(exact)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, source: CtcWords) -> None:
    """Let --ctc planted load the planted model."""
    monkeypatch.setattr(CtcWords, "from_pretrained", lambda *_, **__: source)


def test_the_command_line_shows_errors_side_by_side(corpus, installed, tmp_path, capsys) -> None:
    plain, exact = map(str, corpus)
    out = str(tmp_path / "out.jsonl")
    shifted = [
        replace(row, words=tuple(Word(w.word, w.start_s + 0.06, w.end_s + 0.06) for w in row.words))
        for row in read_manifest(exact)
    ]
    write_manifest(tmp_path / "late.jsonl", shifted)
    command = ["prepare", "words", plain, "--out", out, "--ctc", "planted"]
    beside = ["--against", exact, "--beside", f"late={tmp_path / 'late.jsonl'}"]
    assert main([*command, *beside, "--quiet"]) == 0
    shown, err = capsys.readouterr()
    assert "rows 8, made 8" in shown
    assert err == ""
    made = json.loads(Path(out + ".provenance.json").read_text())
    sources = made["word_times"]["sources"]
    assert list(sources) == ["ctc", "late", "even"]
    assert sources["ctc"]["start_error_mean_s"] == 0
    assert sources["late"]["start_error_median_s"] == pytest.approx(0.06)
    assert (sources["late"]["start_within_50ms"], sources["late"]["start_within_100ms"]) == (0, 1)
    assert sources["even"]["start_error_mean_s"] > 0
    given = ["--ctc", "planted", *beside, "--quiet"]  # in the order in which they are declared
    assert shlex.split(made["command"]) == [
        *["otreg", "prepare", "words"],
        plain,
        "--out",
        out,
        *given,
    ]
    first = Path(out).read_bytes()
    assert main(command) == 0  # up to date
    assert Path(out).read_bytes() == first


def test_the_bar_goes_to_stderr(corpus, installed, tmp_path, capsys) -> None:
    command = ["prepare", "words", str(corpus[0]), "--out", str(tmp_path / "o.jsonl")]
    assert main([*command, "--ctc", "planted"]) == 0
    out, err = capsys.readouterr()
    assert "8/8" in err
    assert "8/8" not in out


@pytest.mark.parametrize("program", ["words", "select", "encoder-states"])
def test_every_program_has_help_with_an_example_and_bare_flags(program: str, capsys) -> None:
    assert main(["prepare", program, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Example: otreg prepare {program}" in shown
    assert "--quiet" in shown
    assert "<bool>" not in shown


MISTAKES = {
    "two sources": (["--ctc", "x", "--model", "y"], "two sources"),
    "no source": ([], "--ctc MODEL or --model RUN"),
    "unknown": (["--ctc", "planted", "--unknown", "drop"], "must be refuse or any"),
    "unknown without ctc": (["--unknown", "any"], "--unknown is for --ctc"),
    "own name": (
        ["--ctc", "planted", "--against", "{exact}", "--beside", "ctc={exact}"],
        "--beside ctc is the name of another row",
    ),
    "beside nothing": (["--beside", "a={exact}", "--ctc", "planted"], "give --against too"),
    "bad beside": (["--beside", "a"], "expected NAME=MANIFEST"),
    "no reference": (["--against", "no.jsonl"], "no such file: 'no.jsonl'"),
    "name in use": (
        ["--ctc", "planted", "--against", "{exact}", "--beside", "even={exact}"],
        "--beside even is the name of another row",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_end_with_one_line(
    arguments, message, corpus, installed, tmp_path, capsys
) -> None:
    plain, exact = map(str, corpus)
    arguments = [argument.replace("{exact}", exact) for argument in arguments]
    assert main(["prepare", "words", plain, "--out", str(tmp_path / "o.jsonl"), *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("otreg: error: ")
    assert message in err
    assert not (tmp_path / "o.jsonl").exists()


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
import planted
from pathlib import Path
from otreg.cli import main
from otreg.prepare.ctc_words import CtcWords

class Slow(CtcWords):
    def align(self, row):
        time.sleep({pause})
        return super().align(row)

CtcWords.from_pretrained = classmethod(lambda cls, *_, **__: Slow(
    planted.PlantedCtc(), planted.feature_extractor(), planted.tokenizer(Path({folder!r}))))
sys.exit(main({command!r}))
"""


def test_a_killed_run_goes_on_and_ends_equal(corpus, source, tmp_path: Path) -> None:
    plain, _ = corpus
    whole = tmp_path / "whole.jsonl"
    prepare_words([plain], whole, source, quiet=True)
    out = tmp_path / "killed.jsonl"
    journal = tmp_path / "killed.jsonl.journal"
    command = ["prepare", "words", str(plain), "--out", str(out), "--ctc", "planted"]

    def start(pause: float) -> subprocess.Popen:
        code = KILLED.format(
            tests=str(Path(__file__).parent),
            folder=str(tmp_path / "ctc"),
            pause=pause,
            command=command,
        )
        return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)

    killed = start(pause=0.2)
    deadline = time.monotonic() + 240
    while not journal.exists() or len(journal.read_bytes().splitlines()) < 3:
        assert killed.poll() is None, killed.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not out.exists()
    before = journal.read_bytes()
    assert 3 <= len(before.splitlines()) < 8
    again = start(pause=0.0)
    _, err = again.communicate(timeout=240)
    assert again.returncode == 0, err
    assert b"rows are in the journal" in err
    assert out.read_bytes() == whole.read_bytes()
    left = sorted(path.name for path in tmp_path.glob("killed.jsonl*"))
    assert left == ["killed.jsonl", "killed.jsonl.provenance.json"]
