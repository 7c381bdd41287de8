"""The small programs that prepare manifests of an experiment."""

from __future__ import annotations

from pathlib import Path

import pytest

from otreg.data.manifest import Utterance, Word, read_manifest, write_manifest
from otreg.experiment.programs import find_program

ANSWER = ({"role": "assistant", "content": ({"type": "text", "text": "yes"},)},)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = [
        Utterance(
            id=f"{language}{number}",
            audio=tmp_path / f"{language}{number}.wav",
            text=f"text {language}{number}",
            language=language,
            words=(Word(f"word{number}", 0.0, 1.0),),
        )
        for language in ("en", "de")
        for number in range(5)
    ]
    for row in rows:
        assert row.audio is not None
        row.audio.touch()
    write_manifest(
        tmp_path / "all.jsonl", [*rows, Utterance("t", None, language="en", messages=ANSWER)]
    )
    return tmp_path / "all.jsonl"


def run(name: str, manifest: Path, **options: object) -> list[Utterance]:
    out = manifest.with_name(f"{name}.jsonl")
    find_program(name)([manifest], out, **options)
    return read_manifest(out)


def test_a_smaller_subset_lies_in_a_larger_one_in_the_manifest_s_order(manifest: Path) -> None:
    whole = read_manifest(manifest)
    small, large = (run("subset", manifest, count=count, seed=1) for count in (3, 7))
    assert [row for row in whole if row in large] == large
    assert [row for row in large if row in small] == small
    assert (len(small), len(large)) == (3, 7)
    assert len(run("subset", manifest, share=0.5)) == 6  # of 11
    assert run("subset", manifest, count=3, seed=2) != small


@pytest.mark.parametrize("options", [{}, {"share": 0.5, "count": 2}, {"count": 99}, {"share": 0}])
def test_a_subset_of_no_size_is_refused(manifest: Path, options: dict) -> None:
    with pytest.raises(ValueError, match="subset: "):
        run("subset", manifest, **options)


@pytest.mark.parametrize(
    ("name", "field"), [("shuffled-text", "text"), ("shuffled-audio", "audio")]
)
def test_shuffling_gives_every_spoken_row_another_s_of_its_language(
    manifest: Path, name: str, field: str
) -> None:
    before, after = read_manifest(manifest), run(name, manifest, seed=3)
    other = "audio" if field == "text" else "text"
    assert after[-1] == before[-1]  # a row without speech
    for old, new in zip(before[:-1], after[:-1], strict=True):
        assert getattr(new, field) != getattr(old, field)
        assert (new.id, getattr(new, other)) == (old.id, getattr(old, other))
        assert f"{old.language}" in str(getattr(new, field))
        assert new.words is None
    for language in ("en", "de"):
        values = [
            sorted(str(getattr(row, field)) for row in rows if row.language == language)
            for rows in (before, after)
        ]
        assert values[0] == values[1]


def test_one_spoken_row_of_a_language_cannot_be_shuffled(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    row = Utterance(id="a", audio=tmp_path / "a.wav", text="a", language="en")
    write_manifest(tmp_path / "one.jsonl", [row])
    with pytest.raises(ValueError, match="at least two utterances of language 'en'"):
        run("shuffled-text", tmp_path / "one.jsonl")


def test_a_program_of_ones_own_is_found_by_module_and_name() -> None:
    assert find_program("otreg.experiment.programs:subset") is find_program("subset")
    with pytest.raises(ValueError, match="cannot be imported"):
        find_program("otreg.experiment.programs:none")
