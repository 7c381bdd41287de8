"""The model's own code as flat files, for transformers to run where otreg is not installed.

transformers copies the files of a model folder that import each other relatively, all from one folder
(`trust_remote_code=True`). So every module that the model needs is written out as one file, with its
imports of the package changed and nothing else:

    from otreg.model.frames import FramePlan     ->    from .otreg_model_frames import FramePlan

Imports for type checkers alone, and those of names that only annotations use, are left out: with them
goes what the model does not need to run.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import otreg

ENTRY = "otreg_speech_lm"
"""The file that the folder's configuration names; it gathers the classes."""

AUTO_CLASSES = {
    "AutoConfig": ("otreg.model.configuration", "SpeechLMConfig"),
    "AutoModelForMultimodalLM": ("otreg.model.modeling", "SpeechLMForConditionalGeneration"),
    "AutoProcessor": ("otreg.model.processing", "SpeechLMProcessor"),
}
"""transformers' Auto class -> module and class of ours."""

_SOURCE = Path(otreg.__file__).parent
_HEADER = """\
# Copyright: the authors of otreg. Licence: Apache-2.0.
# Written by otreg {version} from {module}; changes belong there.
"""


def auto_map(*names: str) -> dict[str, str]:
    """What a configuration file says of these Auto classes: which file holds the class."""
    return {name: f"{ENTRY}.{AUTO_CLASSES[name][1]}" for name in names}


def flat_name(module: str) -> str:
    """The name of a module's file: `otreg.model.frames` -> `otreg_model_frames`."""
    return module.replace(".", "_")


def code_files() -> dict[str, str]:
    """Every file that the model needs, by its name, with its text."""
    files: dict[str, str] = {}
    waiting = [module for module, _ in AUTO_CLASSES.values()]
    while waiting:
        module = waiting.pop()
        name = f"{flat_name(module)}.py"
        if name not in files:
            files[name], needed = flatten(module, _file(module).read_text(encoding="utf-8"))
            waiting += needed
    gathered = [
        f"from .{flat_name(module)} import {name}" for module, name in AUTO_CLASSES.values()
    ]
    listed = ", ".join(f'"{name}"' for _, name in AUTO_CLASSES.values())
    entry = '"""The speech language model, its configuration and its processor."""\n\n'
    entry += "\n".join(gathered) + f"\n\n__all__ = [{listed}]\n"
    header = _HEADER.format(version=otreg.__version__, module="otreg.export.code")
    return dict(sorted((files | {f"{ENTRY}.py": header + entry}).items()))


def required_packages(files: dict[str, str]) -> list[str]:
    """The packages outside the standard library that the files import anywhere, sorted.

    What stands in a `try` helps where it is there, and is not needed.
    """
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Try):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
        for child in ast.iter_child_nodes(node):
            visit(child)

    for text in files.values():
        visit(ast.parse(text))
    return sorted(found - set(sys.stdlib_module_names))


def flatten(module: str, source: str) -> tuple[str, list[str]]:
    """One module as a flat file.

    Args:
        module: its dotted name.
        source: its text.

    Returns:
        The file's text, and the modules of the package that it imports.

    Raises:
        ValueError: `import otreg…`, which has no relative form.
    """
    tree = ast.parse(source)
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    used = _used_names(tree)
    lines = source.splitlines()
    needed: list[str] = []
    changes: list[tuple[int, int, list[str]]] = []  # first and last line, from 1, and what replaces
    for node in ast.walk(tree):
        if _is_for_type_checkers(node):
            assert isinstance(node, ast.If)
            if node.orelse:
                kept = [" " * node.col_offset + "if not TYPE_CHECKING:"]
                changes.append((node.lineno, node.orelse[0].lineno - 1, kept))
            else:
                changes.append((node.lineno, node.end_lineno or node.lineno, []))
        elif isinstance(node, ast.Import) and any(_is_ours(alias.name) for alias in node.names):
            raise ValueError(
                f"{module}, line {node.lineno}: expected names imported from otreg's modules, "
                f"received '{ast.unparse(node)}', which has no relative form"
            )
        elif isinstance(node, ast.ImportFrom) and _is_ours(node.module or ""):
            if any(_is_for_type_checkers(parent) for parent in _above(node, parents)):
                continue
            wanted = [alias for alias in node.names if (alias.asname or alias.name) in used]
            written, modules = _relative(node.module or "", wanted)
            needed += modules
            if not written and not isinstance(parents[node], ast.Module):
                written = ["pass"]
            indent = " " * node.col_offset
            changes.append(
                (node.lineno, node.end_lineno or node.lineno, [indent + line for line in written])
            )
    for first, last, replacement in sorted(changes, reverse=True):
        lines[first - 1 : last] = replacement
    header = _HEADER.format(version=otreg.__version__, module=module)
    return header + "\n".join(lines) + "\n", needed


def _relative(module: str, aliases: list[ast.alias]) -> tuple[list[str], list[str]]:
    """The relative imports of these names, and the modules in which they live."""
    modules: list[str] = []
    names: dict[str, list[str]] = {}
    lines = []
    for alias in aliases:
        home, name = _home(module, alias.name)
        modules.append(home)
        renamed = alias.asname or alias.name
        if name is None:
            lines.append(f"from . import {flat_name(home)} as {renamed}")
        else:
            written = name if renamed == name else f"{name} as {renamed}"
            names.setdefault(flat_name(home), []).append(written)
    lines += [f"from .{home} import {', '.join(found)}" for home, found in names.items()]
    return lines, modules


def _home(module: str, name: str) -> tuple[str, str | None]:
    """The module in which a name is defined, behind packages that pass it on; None: it is a module."""
    if _exists(f"{module}.{name}"):
        return f"{module}.{name}", None
    for node in ast.parse(_file(module).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and _is_ours(node.module or ""):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _home(node.module or "", alias.name)
    return module, name


def _used_names(tree: ast.Module) -> set[str]:
    """Names that the code needs as it runs: all but those in annotations that nothing evaluates."""
    lazy = any(
        isinstance(node, ast.ImportFrom)
        and node.module == "__future__"
        and any(alias.name == "annotations" for alias in node.names)
        for node in tree.body
    )
    ignored: set[int] = set()
    for node in ast.walk(tree):
        if _is_for_type_checkers(node):
            assert isinstance(node, ast.If)
            ignored |= {id(inner) for part in node.body for inner in ast.walk(part)}
        if lazy and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.arg):
            hint = node.annotation if isinstance(node, ast.arg) else node.returns
            ignored |= {id(inner) for inner in ast.walk(hint)} if hint is not None else set()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):  # its variables' annotations
            for inner in ast.walk(node):
                if isinstance(inner, ast.AnnAssign):
                    ignored |= {id(part) for part in ast.walk(inner.annotation)}
    names = {
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in ignored
    }
    for node in tree.body:  # what a module offers
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names |= set(ast.literal_eval(node.value))
    return names


def _is_for_type_checkers(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


def _above(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> list[ast.AST]:
    found = []
    while node in parents:
        node = parents[node]
        found.append(node)
    return found


def _is_ours(module: str) -> bool:
    return module == "otreg" or module.startswith("otreg.")


def _exists(module: str) -> bool:
    path = _SOURCE.joinpath(*module.split(".")[1:])
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _file(module: str) -> Path:
    path = _SOURCE.joinpath(*module.split(".")[1:])
    package = path / "__init__.py"
    return package if package.is_file() else path.with_suffix(".py")
