"""Digests follow content, never paths; the source in a key covers all that a step imports."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from otreg.experiment import steps
from otreg.experiment.graph import Kind
from otreg.experiment.keys import PACKAGE, Digests, digest, own_source, source_digest


def corpus(folder: Path, tone: float = 0.1) -> Path:
    folder.mkdir(parents=True)
    lines = []
    for name in ("a", "b"):
        soundfile.write(folder / f"{name}.wav", np.full(400, tone if name == "a" else 0.2), 16_000)
        row = {"id": name, "audio": f"{name}.wav", "text": name, "language": "en"}
        lines.append(json.dumps(row))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "manifest.jsonl"


def test_a_manifest_is_known_by_its_text_and_its_audio_not_by_its_place(tmp_path: Path) -> None:
    digests = Digests(tmp_path / "digests.json")
    one, same = corpus(tmp_path / "one"), corpus(tmp_path / "deep" / "two")
    assert digests.manifest(one) == digests.manifest(same)
    assert digests.manifest(one) != digests.manifest(corpus(tmp_path / "three", tone=0.15))
    same.write_text(same.read_text().replace('"text": "a"', '"text": "c"'))
    assert digests.manifest(one) != digests.manifest(same)


def test_digests_that_cannot_be_read_are_made_anew(tmp_path: Path) -> None:
    (tmp_path / "digests.json").write_text("{torn")
    (tmp_path / "x").write_text("one")
    assert len(Digests(tmp_path / "digests.json").file(tmp_path / "x")) == 64


def test_a_folder_is_known_by_names_and_content(tmp_path: Path) -> None:
    digests = Digests(tmp_path / "digests.json")
    for name in ("one", "two"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "w.bin").write_bytes(b"weights")
    assert digests.of(tmp_path / "one") == digests.of(tmp_path / "two")
    (tmp_path / "two" / "deep" / "w.bin").rename(tmp_path / "two" / "w.bin")
    assert digests.of(tmp_path / "one") != digests.of(tmp_path / "two")


def test_equal_data_have_equal_digests() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.5})
    assert digest(["ab"]) != digest(["a", "b"])


def test_the_source_digest_follows_every_file_of_its_parts_alone(tmp_path: Path) -> None:
    for name in ("data/manifest.py", "model/x.py", "model/deep/k.cpp", "names.py", "cli/a.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    parts = ("model", "data/manifest.py")

    def now() -> str:
        source_digest.cache_clear()
        return source_digest(parts, tmp_path)

    before = now()
    (tmp_path / "cli/a.py").write_text("changed")
    assert now() == before
    for name in ("model/deep/k.cpp", "data/manifest.py", "names.py"):
        (tmp_path / name).write_text("changed")
        assert now() != before
        (tmp_path / name).write_text(name)
    assert now() == before
    source_digest.cache_clear()


def test_code_of_ones_own_is_known_by_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_loss.py").write_text("one = 1\n")
    settings = {"stages": [{"objectives": {"x": {"type": "own_loss:one"}}}], "path": "/a:b"}
    before = own_source(settings)
    assert before.keys() == {"own_loss"}
    (tmp_path / "own_loss.py").write_text("one = 2\n")
    assert own_source(settings) != before
    assert own_source({"type": "no_such_module_at_all:x"}) == {"no_such_module_at_all": None}


KINDS = [value for value in vars(steps).values() if isinstance(value, Kind)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_key_covers_all_source_that_the_step_imports(kind: Kind) -> None:
    """Followed through the imports of every module, those inside functions too."""
    tree = ast.parse((PACKAGE / "experiment/steps.py").read_text())
    bodies = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    todo = _imported(bodies[kind.function.__name__])
    seen: set[Path] = set()
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo |= _imported(ast.parse(path.read_text()))
    shared = {"__init__.py", "languages.py", "names.py", "pair.py", "shapes.py", "versions.py"}
    for path in seen:
        name = path.relative_to(PACKAGE)
        covered = {name.as_posix(), name.parts[0]} & ({*kind.source} | shared)
        assert covered, f"{kind.name}: its key does not cover {name}"


def _imported(tree: ast.AST) -> set[Path]:
    """The package's files that a piece of source imports, with the packages they lie in."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    found: set[Path] = set()
    for name in names:
        parts = name.split(".")
        for end in range(2, len(parts) + 1):
            base = PACKAGE.joinpath(*parts[1:end]) if parts[0] == "otreg" else PACKAGE / "none"
            found |= {
                path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()
            }
    return found
