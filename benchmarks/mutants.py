"""Mutation testing: how many small wrong changes of the source does a test notice?

    make mutants                            # 200 mutants of seed 0; go on with it by the same command
    make mutants ARGS="--num 10 --only 'src/otreg/data/sampler.py'"

mutmut makes the mutants, times every test and notes which functions it reaches. A sample is drawn by
the seed, and each of its mutants meets the tests that reach it, the fastest first, until one fails.
What survives meets all tests of its room once more, since mutmut counts what a shared fixture runs
for the first test that asked for it alone. Everything lies in mutants/; the table of docs/mutants.md
is written anew, and the reasons in it, by hand, are kept.

Decorated functions are not mutated (mutmut leaves them out).
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tomllib  # Python 3.11; mutants are for developers

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "mutants"
PAGE = ROOT / "docs" / "mutants.md"
ROOMS = ("objectives", "forwards", "training", "model", "data", "evaluation")
TESTS = {
    "objectives": ["tests/objectives", "tests/training"],
    "forwards": ["tests/forwards", "tests/training"],
}
BEGIN, END = "<!-- written by benchmarks/mutants.py -->", "<!-- end -->"
KILLED = (1, 3)
TIMEOUT = (36, 24, -24, 152, 255)
RECHECK_TIMEOUT_S = 1800


@dataclass(frozen=True)
class Mutant:
    """One mutant: its file, its name in mutmut, and mutmut's exit code (None = not tried)."""

    path: str
    name: str
    code: int | None

    @property
    def room(self) -> str:
        return self.path.split("/")[2]

    @property
    def place(self) -> str:
        """Such as data/sampler.py TokenBudgetBatchSampler._cut."""
        function = re.sub(r"__mutmut_\d+$", "", self.name.rsplit(".", 1)[1])
        function = re.sub("^xǁ|^x_", "", function).replace("ǁ", ".")
        return f"{self.path.removeprefix('src/otreg/')} {function}"


def mutants(only: str = "*") -> list[Mutant]:
    """Every mutant of the rooms, by name."""
    found = []
    for meta in FOLDER.rglob("*.py.meta"):
        path = meta.relative_to(FOLDER).as_posix().removesuffix(".meta")
        parts = path.split("/")
        if len(parts) > 3 and parts[2] in ROOMS and fnmatch.fnmatch(path, only):
            codes = json.loads(meta.read_text())["exit_code_by_key"]
            found += [Mutant(path, name, code) for name, code in codes.items()]
    return sorted(found, key=lambda mutant: mutant.name)


def mutmut(*arguments: str, capture: bool = False) -> subprocess.CompletedProcess[str]:
    """Run mutmut in the repository."""
    command = [sys.executable, "-m", "mutmut", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=capture, text=True)


def generate() -> None:
    """Make the mutants and time the tests: mutmut does both before it looks for the names."""
    print("making the mutants and timing the tests: minutes at first, seconds later", flush=True)
    ran = mutmut("run", "--max-children", "1", "there-is-no-such-mutant", capture=True)
    if not mutants() or "nothing matches" not in ran.stderr:
        print(ran.stdout.replace("\r", "\n")[-4000:], ran.stderr[-2000:], sep="\n")
        raise SystemExit("mutmut could not start; does every test of the source as it is pass?")


def drawn(found: list[Mutant], num: int, seed: int) -> list[Mutant]:
    """A sample that depends on the source and the seed alone; a greater one holds the smaller."""
    names = [mutant.name for mutant in found]
    random.Random(seed).shuffle(names)
    chosen = set(names[:num])
    return [mutant for mutant in found if mutant.name in chosen]


def fails(room: str, mutant: str) -> bool:
    """Whether a test of a room fails, or hangs, under a mutant ("" = the source as it is)."""
    environment = os.environ | {
        "MUTANT_UNDER_TEST": mutant,
        "PYTHONPATH": str(FOLDER / "src"),
        "OMP_NUM_THREADS": "1",
    }
    tests = TESTS.get(room, [f"tests/{room}"])
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    options = config["tool"]["mutmut"]["pytest_add_cli_args"]
    command = [sys.executable, "-m", "pytest", "-x", "-q", *options, *tests]
    try:
        ran = subprocess.run(
            command, cwd=FOLDER, env=environment, capture_output=True, timeout=RECHECK_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return True
    return ran.returncode != 0


def recheck(survivors: list[Mutant], children: int) -> dict[str, bool]:
    """Run all tests of their rooms on survivors; by name, whether one of them fails. Resumable."""
    record = FOLDER / "rechecked.json"
    known: dict[str, bool] = json.loads(record.read_text()) if record.exists() else {}
    waiting = [mutant for mutant in survivors if mutant.name not in known]
    for room in sorted({mutant.room for mutant in waiting}):
        if fails(room, ""):
            raise SystemExit(
                f"a test of {room} fails in {FOLDER} without any mutant, so it proves nothing there; "
                "does it need a file that also_copy in pyproject.toml does not name?"
            )
    with ThreadPoolExecutor(children) as pool:
        futures = [pool.submit(fails, mutant.room, mutant.name) for mutant in waiting]
        for number, (mutant, future) in enumerate(zip(waiting, futures, strict=True), 1):
            known[mutant.name] = future.result()
            record.write_text(json.dumps(known, indent=1))
            print(f"survivor {number} of {len(waiting)} met its room: {mutant.place}", flush=True)
    return known


def change_of(mutant: Mutant) -> str:
    """The changed lines, `before` → `after`, as they stand in the table."""
    lines = mutmut("show", mutant.name, capture=True).stdout.splitlines()
    sides = [
        " ".join(
            line[1:].strip()
            for line in lines
            if line.startswith(sign) and not line.startswith(sign * 3)
        )
        for sign in "-+"
    ]
    shown = [re.sub(r"\s+", " ", side).replace("|", "\\|").replace("`", "'") for side in sides]
    return " → ".join(f"`{side}`" for side in shown)


def reasons_in(page: str) -> dict[tuple[str, str], str]:
    """The reasons that stand in the page, by place and change."""
    reasons = {}
    for line in page.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 3 and cells[0] not in ("place", "") and set(cells[0]) != {"-"}:
            reasons[cells[0], cells[1]] = cells[2]
    return reasons


def table(
    sample: list[Mutant], rechecked: Mapping[str, bool], reasons: Mapping[tuple[str, str], str]
) -> str:
    """The page's part that is written by the run."""

    def killed(mutant: Mutant) -> bool:
        return mutant.code in (*KILLED, *TIMEOUT) or rechecked.get(mutant.name, False)

    tried = [mutant for mutant in sample if mutant.code is not None]
    lines = [
        "",
        "| room | mutants | killed | of them by time-out | share |",
        "|---|---|---|---|---|",
    ]
    rooms = [room for room in ROOMS if any(mutant.room == room for mutant in tried)]
    for room in [*rooms, "all"]:
        here = [mutant for mutant in tried if room in ("all", mutant.room)]
        dead = [mutant for mutant in here if killed(mutant)]
        late = sum(mutant.code in TIMEOUT for mutant in dead)
        share = 100 * len(dead) / max(1, len(here))
        lines.append(f"| {room} | {len(here)} | {len(dead)} | {late} | {share:.0f} % |")
    if len(tried) < len(sample):
        lines += ["", f"{len(sample) - len(tried)} of the sample are still to be tried."]
    lines += ["", "| place | change | why it survives |", "|---|---|---|"]
    for mutant in tried:
        if not killed(mutant):
            change = change_of(mutant)
            reason = reasons.get((mutant.place, change), "")
            lines.append(f"| {mutant.place} | {change} | {reason} |")
    return "\n".join([*lines, ""])


def write_page(text: str) -> None:
    """Put the table between the page's marks."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--num", type=int, default=200, help="mutants in the sample")
    parser.add_argument("--seed", type=int, default=0, help="draws the sample")
    parser.add_argument("--only", default="*", help="pattern of source files")
    parser.add_argument("--children", type=int, default=2, help="processes")
    parser.add_argument("--dry", action="store_true", help="leave docs/mutants.md alone")
    options = parser.parse_args()
    generate()
    sample = drawn(mutants(options.only), options.num, options.seed)
    waiting = [mutant.name for mutant in sample if mutant.code is None]
    print(f"{len(sample)} mutants in the sample, {len(waiting)} of them to be tried", flush=True)
    if waiting:
        mutmut("run", "--max-children", str(options.children), *waiting)
    codes = {mutant.name: mutant.code for mutant in mutants(options.only)}
    sample = [Mutant(mutant.path, mutant.name, codes[mutant.name]) for mutant in sample]
    alive = [m for m in sample if m.code is not None and m.code not in (*KILLED, *TIMEOUT)]
    text = table(
        sample, recheck(alive, options.children), reasons_in(PAGE.read_text(encoding="utf-8"))
    )
    print(text)
    if not options.dry:
        write_page(text)


if __name__ == "__main__":
    main()
