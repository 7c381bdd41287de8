"""Blocks of code of a Markdown page, what each is, and what a mark above it says.

A mark stands directly above its block and says why it is not run, or which of its commands are not:

    <!-- not run: downloads a model of 7B -->
    <!-- not run (git, pip): needs the network -->

A fence with a title is a file: ```yaml title="mine.yaml". One titled "output" holds what the block before it
prints, where "…" stands for anything.
"""

from __future__ import annotations

import ast
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

SHELL = ("otreg", "python", "make", "git", "pip", "hf", "torchrun", "curl")
"""First words of commands; an indented block in which each line starts with one is a shell's."""

FENCE = re.compile(r"^(`{3,})(\w*)(?: title=\"([^\"]+)\")?\s*$")
MARK = re.compile(r"<!-- not run(?: \(([^)]*)\))?: (.*?) -->", re.DOTALL)


@dataclass(frozen=True)
class Mark:
    """Why something is not run.

    Attributes:
        only: beginnings of the commands that it is about; empty = the whole block.
        reason: for readers.
    """

    only: tuple[str, ...]
    reason: str


@dataclass
class Block:
    """A block of code.

    Attributes:
        page: path in the repository.
        line: of its first line of code, counted from 1.
        kind: "python", "shell", "yaml", "json", "output", "file" or "text".
        code: without fence and indentation.
        title: the name of a file.
        marks: in the order of the page.
    """

    page: str
    line: int
    kind: str
    code: str
    title: str = ""
    marks: list[Mark] = field(default_factory=list)

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def is_left_out(self) -> bool:
        return any(not mark.only for mark in self.marks)

    def commands(self) -> list[list[str]]:
        """The words of each command of a shell block; a `\\` at a line's end goes on."""
        joined = self.code.replace("\\\n", " ")
        split = [shlex.split(line, comments=True) for line in joined.splitlines()]
        return [words for words in split if words]

    def is_marked(self, words: list[str]) -> bool:
        """Whether a mark is about this command."""
        line = " ".join(words)
        return self.is_left_out or any(line.startswith(b) for m in self.marks for b in m.only)


def blocks(page: str, text: str) -> list[Block]:
    """All blocks of a page."""
    found: list[Block] = []
    lines = text.splitlines()
    marks: list[Mark] = []
    number = 0
    while number < len(lines):
        line = lines[number]
        if line.startswith("<!-- not run"):
            start = number
            while "-->" not in lines[number]:
                number += 1
            marks.append(_mark("\n".join(lines[start : number + 1]), f"{page}:{start + 1}"))
        elif match := FENCE.match(line):
            end = lines.index(match[1], number + 1)
            code = "\n".join(lines[number + 1 : end]) + "\n"
            kind = {"js": "text", "sh": "shell", "bash": "shell", "": "text"}.get(
                match[2], match[2]
            )
            if match[3]:
                kind = "output" if match[3] == "output" else "file"
            elif not match[2] and _is_shell(code):
                kind = "shell"
            found.append(Block(page, number + 2, kind, code, match[3] or "", marks))
            marks, number = [], end
        elif line.startswith("    ") and (number == 0 or _ends(lines[number - 1])):
            end = number
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            code = "\n".join(part[4:] for part in lines[number:end]).rstrip() + "\n"
            if not _is_inside_a_list(lines, number):
                found.append(Block(page, number + 1, _kind(code), code, marks=marks))
            marks, number = [], end - 1
        elif line.strip() and marks:
            raise ValueError(f"{page}:{number + 1}: a mark stands above what is no block of code")
        number += 1
    return found


def _ends(line: str) -> bool:
    """Whether an indented block may begin below a line: one that is blank, or a comment's last."""
    return not line.strip() or line.rstrip().endswith("-->")


def _mark(text: str, where: str) -> Mark:
    match = MARK.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{where}: expected <!-- not run: REASON -->, got {text!r}")
    only = tuple(part.strip() for part in (match[1] or "").split(",") if part.strip())
    return Mark(only, " ".join(match[2].split()))


def _is_inside_a_list(lines: list[str], number: int) -> bool:
    """An indented block below an item of a list is a paragraph of it."""
    above = [line for line in lines[:number] if line.strip() and not line.startswith("    ")]
    return bool(above) and re.match(r"^( *)([-*]|\d+\.) ", above[-1]) is not None


def _is_shell(code: str) -> bool:
    joined = code.replace("\\\n", " ").splitlines()
    lines = [part for part in joined if part.strip() and not part.strip().startswith("#")]
    return bool(lines) and all(part.split()[0] in SHELL for part in lines)


def _kind(code: str) -> str:
    """What an indented block is."""
    if _is_shell(code):
        return "shell"
    try:
        ast.parse(code)
    except SyntaxError:
        return "text"
    return "python"


def pages(root: Path) -> dict[str, str]:
    """README.md and docs/, without the log, which tells of commands as they were."""
    paths = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    names = {path.relative_to(root).as_posix(): path for path in paths}
    return {n: p.read_text(encoding="utf-8") for n, p in names.items() if n != "docs/log.md"}
