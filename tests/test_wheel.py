"""The wheel: it holds the package whole and nothing else, and works from an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "otreg"
HEAVY = ("torch", "numpy", "transformers", "typer", "yaml", "pydantic")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the checkout, by the backend that is installed: pip may not ask the index."""
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
    ]
    _succeeds([*command, "--quiet", "--wheel-dir", str(out), str(ROOT)])
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel alone, without what it needs."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--quiet"]
    _succeeds([*command, "--target", str(folder), str(wheel)])
    return folder


def _succeeds(command: list[str], **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _from(installed: Path, tmp_path: Path, *arguments: str) -> str:
    """Python outside of the checkout, with the installed folder before all others."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    env["PYTHONPATH"] = str(installed)
    return _succeeds([sys.executable, *arguments], cwd=tmp_path, env=env)


def package_files() -> set[str]:
    """Every file of the package in the tree, but caches."""
    files = {p for p in SOURCE.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    return {path.relative_to(SOURCE.parent).as_posix() for path in files}


def test_the_package_has_nothing_but_sources_and_known_data() -> None:
    kinds = {Path(name).suffix for name in package_files()}
    assert kinds == {".py", ".yaml", ".cpp", ".h", ".j2"} | ({".typed"} & kinds)
    names = package_files()
    for name in (
        "otreg/recipes/paper.yaml",
        "otreg/experiment/systems/otreg.yaml",
        "otreg/transport/csrc/sinkhorn.cpp",
        "otreg/evaluation/report/templates/report.html.j2",
    ):
        assert name in names


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    about = {name for name in names if ".dist-info/" in name}
    assert names - about == package_files()
    kept = {name.partition(".dist-info/")[2] for name in about}
    assert kept == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}


def test_importing_the_installed_package_is_light(
    installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = (
        "import sys, time\nbefore = time.perf_counter()\nimport otreg\n"
        "print(otreg.__file__, round(1000 * (time.perf_counter() - before), 1))\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    where, loaded = _from(installed, tmp_path, "-c", code).splitlines()
    path, milliseconds = where.split()
    assert Path(path) == installed / "otreg" / "__init__.py"
    assert loaded == "[]"
    with capsys.disabled():
        print(f"\nimport otreg: {milliseconds} ms")


def test_the_installed_command_works_outside_of_the_checkout(
    installed: Path, tmp_path: Path
) -> None:
    command = str(installed / "bin" / "otreg")
    assert re.fullmatch(r"otreg \d+\.\d+\.\d+\n", _from(installed, tmp_path, command, "--version"))
    shown = _from(installed, tmp_path, command, "demo", "--help")
    assert "--seeds" in shown
    code = (
        "from otreg.training import load_config; import otreg\n"
        "from otreg.experiment.reading import load_experiment\n"
        "print(otreg.__file__, load_config('paper').seed, sorted(load_experiment('salad').arms)[0])"
    )
    found = _from(installed, tmp_path, "-c", code)
    assert found.startswith(str(installed))
    assert not (installed / "tests").exists()
