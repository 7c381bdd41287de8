"""The house: which room may import which, no circles, private modules, and files that a reader can hold."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import otreg

SOURCE = Path(otreg.__file__).parent

# Leaves that every room may import: annotations of shapes, "did you mean", languages, versions.
LEAVES = {"shapes", "names", "languages", "versions"}

# Each room may import the rooms named here, itself and the leaves.
ROOMS: dict[str, set[str]] = {
    "transport": set(),
    "pair": set(),
    "objectives": {"transport", "pair"},
    "data": set(),
    "model": {"transport", "data"},
    "forwards": {"objectives", "model", "data", "pair"},
    "integrations": {"objectives", "model", "data", "pair", "forwards"},
    "prepare": {"model", "data", "objectives", "pair", "forwards"},
    "synthetic": {"model", "data"},
    "transcription": {"model", "data"},
    "evaluation": {"transport", "pair", "objectives", "forwards", "model", "data"},
    "training": {"pair", "objectives", "forwards", "integrations", "model", "data", "prepare"},
    "export": {"integrations", "model", "data", "evaluation", "training"},
    "serving": {"data", "model", "transcription"},
    "recipes": set(),
    "experiment": {
        *("pair", "objectives", "forwards", "model", "data"),
        *("prepare", "synthetic", "evaluation", "training"),
    },
    "cli": {
        *("data", "model", "integrations", "prepare", "synthetic", "transcription"),
        *("evaluation", "training", "experiment", "export", "serving"),
    },
}

# Source files above 350 lines, each with its reason.
LONG: dict[str, str] = {}
MAX_LINES = 350


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: Path) -> set[str]:
    """The package's modules that a file imports: at the top, in functions, for type checkers."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            module = node.module or ""
            whole = [f"{module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else module for name in whole]
        found |= {name for name in names if name in MODULES}
    return found


IMPORTS = {name: imports(path) - {name} for name, path in MODULES.items()}


def room_of(name: str) -> str:
    """`otreg.data.audio` -> `data`; the package itself has no room."""
    return name.split(".")[1] if "." in name else ""


def test_every_room_is_listed() -> None:
    rooms = {room_of(name) for name in MODULES} - {""} - LEAVES
    folders = {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name[0] != "_"}
    assert rooms | folders == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_one_way(room: str) -> None:
    allowed = ROOMS[room] | LEAVES | {room}
    wrong = {
        f"{name} imports {other}"
        for name, others in IMPORTS.items()
        for other in others
        if room_of(name) == room and room_of(other) not in allowed and room_of(other)
    }
    assert not wrong


def test_leaves_import_nothing_of_the_package() -> None:
    for name in MODULES:
        if room_of(name) in LEAVES:
            assert not IMPORTS[name], name


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, by Tarjan's algorithm."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            group = []
            while not group or group[-1] != name:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for name in sorted(graph):
        if name not in order:
            visit(name)
    return found


def test_a_circle_would_be_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b"}, "b": set()}) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    # A package's __init__ gathers its modules; the package itself imports names when they are asked for.
    graph = {name: others - {"otreg"} for name, others in IMPORTS.items() if name != "otreg"}
    assert circles(graph) == []


def test_no_rooms_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {room: set() for room in [*ROOMS, *LEAVES]}
    for name, others in IMPORTS.items():
        if room_of(name):
            graph[room_of(name)] |= {room_of(o) for o in others if room_of(o)} - {room_of(name)}
    assert circles(graph) == []


def owner_of(name: str) -> str | None:
    """The package that a private module belongs to: what stands before its first underscored part."""
    parts = name.split(".")
    private = [number for number, part in enumerate(parts) if part.startswith("_")]
    return ".".join(parts[: private[0]]) if private else None


def test_private_modules_are_imported_in_their_own_folder_alone() -> None:
    assert owner_of("otreg.data._checks") == owner_of("otreg.data._x.y") == "otreg.data"
    wrong = [
        f"{name} imports {other}"
        for name, others in IMPORTS.items()
        for other in others
        if (owner := owner_of(other)) is not None
        and name != owner
        and name.rsplit(".", 1)[0] != owner
        and not name.startswith(f"{owner}._")
    ]
    assert not wrong


def test_source_files_are_short() -> None:
    files = [p for p in SOURCE.rglob("*") if p.suffix in (".py", ".cpp", ".h", ".j2", ".yaml")]
    lengths = {
        str(path.relative_to(SOURCE)): len(path.read_text(encoding="utf-8").splitlines())
        for path in files
    }
    long = {name: length for name, length in lengths.items() if length > MAX_LINES}
    assert set(long) <= set(LONG), f"above {MAX_LINES} lines without a reason: {long}"
    assert len(LONG) <= 3
    assert all(name in long and reason for name, reason in LONG.items())
