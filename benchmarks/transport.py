"""otreg's transport solver against its peers: one table, one run, every method in turn.

    pip install -e ".[bench,compiled]"
    python benchmarks/transport.py --json runs/transport.json
    python benchmarks/transport.py --shapes 8x100x20x256 --epsilons 0.05 --methods "otreg*,pot*"

Kinds: "solver" = a ready cost to a plan, without gradient; "whole" = from x and y through the cost
1 - cos(x, y) and the solver to a loss and back to x. The rule is one for all: the L1 error of both
marginals, summed in float64 afterwards, is at most 1e-3 of the mass in every problem of the batch.
A library with another rule of its own gets the loosest tolerance found that meets this one (GeomLoss,
which has none: the least of 25, 50, 100, … iterations); the search is not timed, and nor is JAX's
compilation. Every call starts from nothing. CPU time is the process's own, all threads together;
the floor is the cost and its backward with a fixed plan: what any loss on this cost must pay.

glibc is told to keep freed memory, for all methods alike: by default it may hand large tensors back
to the system, and faulting them in again can cost several times the floor, at random.

--threads bounds torch (also its OpenMP) and, through NPROC, XLA's pools; set OMP_NUM_THREADS to the
same for NumPy's BLAS. A method that fails is a row that says so.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import logging
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _machine import address_space, at_most, bound_threads, keep_freed_memory, machine
from _peers import MAX_ITER, RULE, Method, Solved, peers, whole_of
from _problems import SEED, Problem, cost_of, make_problem
from torch import Tensor

from otreg.transport import cosine_transport, sinkhorn

SHAPES = ("8x100x20x256", "8x375x80x1024", "32x375x80x1024", "8x1500x400x1024", "ragged")
EPSILONS = (0.05, 0.02, 0.01)
MAX_CALIBRATIONS, MAX_FIXED_ITERATIONS = 6, 1600


def marginal_error(problem: Problem, cost: Tensor, epsilon: float, solved: Solved) -> float | None:
    """The largest error of the batch in float64; None where the method shows neither plan nor f, g."""
    a, b = problem.a.double(), problem.b.double()
    if solved.plan is not None:
        plan = solved.plan.double()
    elif solved.potentials is not None:
        f, g = (potential.double() for potential in solved.potentials)
        exponent = (f.unsqueeze(2) + g.unsqueeze(1) - cost.double()) / epsilon
        real = (a > 0).unsqueeze(2) & (b > 0).unsqueeze(1)
        plan = torch.where(real, a.unsqueeze(2) * b.unsqueeze(1) * exponent.exp(), 0.0)
    else:
        return None
    error = (plan.sum(2) - a).abs().sum(1) + (plan.sum(1) - b).abs().sum(1)
    return float((error / a.sum(1)).max())


# --- otreg and the floor ------------------------------------------------------------------------


def otreg_solver(method: str) -> Method:
    def solve(problem: Problem, cost: Tensor, epsilon: float, knob: float) -> Solved:
        settings = {"epsilon": epsilon, "tol": knob, "max_iter": MAX_ITER, "method": method}
        result = sinkhorn(cost, problem.a, problem.b, **settings)
        return Solved(result.plan, iterations=int(result.num_iters.max()))

    return Method(f"otreg-{method}", solve, is_peer=False)


def otreg_whole(problem: Problem, epsilon: float, knob: float) -> Solved:
    settings = {"epsilon": epsilon, "tol": knob, "max_iter": MAX_ITER, "method": "auto"}
    x = problem.x.detach().requires_grad_()
    moved = cosine_transport(x, problem.y, problem.a, problem.b, **settings)
    moved.cost.sum().backward()
    result = moved.result
    iterations, note = int(result.num_iters.max()), f"solved by {result.method}"
    return Solved(result.plan.detach(), iterations=iterations, gradient=x.grad, note=note)


def fixed_plan(problem: Problem, cost: Tensor, epsilon: float, knob: float) -> Solved:
    return Solved(problem.a.unsqueeze(2) * problem.b.unsqueeze(1))


def methods_of(patterns: str) -> list[Method]:
    """The floor, then otreg's methods and the peers whose names match a pattern."""
    # The reference is for reading, and Triton's solver for GPUs.
    known = [otreg_solver(name) for name in ("accelerated", "compiled", "newton")]
    known += [Method("otreg-auto", whole=otreg_whole, is_peer=False), *peers()]
    wanted = [pattern.strip() for pattern in patterns.split(",")]
    for pattern in wanted:
        if not fnmatch.filter([method.name for method in known], pattern):
            names = ", ".join(method.name for method in known)
            raise SystemExit(f"no method matches {pattern!r}; there are {names}")
    chosen = [m for m in known if any(fnmatch.fnmatch(m.name, pattern) for pattern in wanted)]
    return [Method("floor", whole=whole_of(fixed_plan), is_peer=False), *chosen]


# --- timing -------------------------------------------------------------------------------------


@dataclass
class Run:
    """One method on one problem: its calibrated knob and its times."""

    method: Method
    kind: str
    problem: Problem
    cost: Tensor
    epsilon: float
    memory: int  # bytes of address space for a method that records its loop
    knob: float = 0.0
    error: float | None = None
    iterations: int | None = None
    note: str = ""
    failed: bool = False
    samples: list[tuple[float, float]] = field(default_factory=list)  # CPU and wall seconds

    def call(self) -> tuple[Solved, float, float]:
        cpu, wall = time.process_time(), time.perf_counter()
        if self.kind == "solver":
            assert self.method.solve is not None
            with torch.no_grad():
                solved = self.method.solve(self.problem, self.cost, self.epsilon, self.knob)
        else:
            assert self.method.whole is not None
            with at_most(self.memory if self.method.records else 0):
                solved = self.method.whole(self.problem, self.epsilon, self.knob)
        return solved, time.process_time() - cpu, time.perf_counter() - wall

    def calibrate(self, budget_s: float) -> None:
        """Find the knob that meets the rule, by at most a few calls; keep a slow call as the sample."""
        self.knob = self.method.first_knob(self.problem)
        try:
            if self.method.compiles:
                target, self.knob = self.knob, 1e9
                self.call()
                self.knob = target
            for attempt in range(1, 100):
                solved, cpu, wall = self.call()
                self.error = marginal_error(self.problem, self.cost, self.epsilon, solved)
                self.iterations, self.note = solved.iterations, solved.note
                if solved.gradient is not None and not bool(solved.gradient.isfinite().all()):
                    self.note = "the gradient is not finite"
                if self.method.name == "floor" or not self.should_retry(attempt, wall, budget_s):
                    break
            if wall > budget_s:
                self.samples.append((cpu, wall))
        except Exception as error:
            self.fail(error)

    def sample(self, budget_s: float) -> None:
        """Take one more timing, unless a single call was too slow or failed."""
        if self.failed or (self.samples and self.samples[0][1] > budget_s):
            return
        try:
            self.samples.append(self.call()[1:])
        except Exception as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        lines = str(error).strip().splitlines() or [""]
        self.failed, self.error = True, None
        self.note = f"{type(error).__name__}: {lines[0]}"[:160]
        if isinstance(error, MemoryError) or "can't allocate memory" in lines[0]:
            self.note = f"more memory than --memory allows ({self.memory / 2**30:.1f} GiB mapped)"

    def should_retry(self, attempt: int, wall: float, budget_s: float) -> bool:
        """Set a stricter knob, where the rule is not met and another call can help."""
        if self.error is None or self.error <= RULE:
            return False
        if not math.isfinite(self.error):
            self.note = "not finite"
            return False
        if self.method.fixed_iterations:
            if 2 * self.knob > MAX_FIXED_ITERATIONS or 2 * wall > budget_s:
                return False
            self.knob *= 2
            return True
        if attempt >= MAX_CALIBRATIONS or (self.iterations or 0) >= MAX_ITER:
            return False
        self.knob *= max(0.95**attempt * RULE / self.error, 0.05)
        return True

    def row(self, floor_s: float | None) -> dict[str, Any]:
        cpu, wall = (
            median(times) if times else None
            for times in ([s[0] for s in self.samples], [s[1] for s in self.samples])
        )
        finite = self.error is not None and math.isfinite(self.error)
        is_floor = self.method.name == "floor"
        return {
            "shape": self.problem.name,
            "epsilon": self.epsilon,
            "kind": "floor" if is_floor else self.kind,
            "method": self.method.name,
            "seconds": cpu,
            "wall_seconds": wall,
            "repeats": len(self.samples),
            "iterations": self.iterations,
            "marginal_error": self.error if finite and not is_floor else None,
            "converged": None if is_floor else bool(finite and self.error <= RULE),
            "ratio_to_floor": cpu / floor_s if cpu and floor_s else None,
            "note": self.note,
        }


def measure(
    problem: Problem,
    epsilon: float,
    methods: list[Method],
    repeats: int,
    budget_s: float,
    memory: int,
) -> list[dict[str, Any]]:
    """The rows of one problem at one epsilon; methods take turns, so a busy spell meets them all."""
    cost = cost_of(problem.x, problem.y)
    runs = [
        Run(method, kind, problem, cost, epsilon, memory)
        for kind in ("whole", "solver")
        for method in methods
        if getattr(method, "whole" if kind == "whole" else "solve") is not None
    ]
    for run in runs:
        run.calibrate(budget_s)
    for run in runs:
        if run.failed and not run.method.is_peer:
            print(f"skipped: {run.method.name}: {run.note}")
    runs = [run for run in runs if run.method.is_peer or not run.failed]
    for _ in range(repeats):
        for run in runs:
            run.sample(budget_s)
    floor_s = median(s[0] for s in runs[0].samples)
    return [run.row(floor_s) for run in runs]


# --- the report ---------------------------------------------------------------------------------


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print one shape and epsilon as Markdown; the last column is over otreg's fastest of a kind."""

    def text(value: Any, form: str) -> str:
        return "-" if value is None else format(value, form)

    print(f"\n### {rows[0]['shape']}, epsilon {rows[0]['epsilon']:g}\n")
    print(
        "| kind | method | CPU ms | wall ms | iterations | error | met | /floor | /otreg | note |"
    )
    print("|" + "---|" * 10)
    for row in rows:
        ours = [
            other["seconds"]
            for other in rows
            if other["kind"] == row["kind"]
            and other["method"].startswith("otreg-")
            and other["converged"]
            and other["seconds"]
        ]
        ratio = row["seconds"] / min(ours) if ours and row["seconds"] else None
        cells = [
            row["kind"],
            row["method"],
            *(text(row[key] and 1e3 * row[key], ".3g") for key in ("seconds", "wall_seconds")),
            text(row["iterations"], "d"),
            text(row["marginal_error"], ".1e"),
            {True: "yes", False: "no", None: "-"}[row["converged"]],
            text(row["ratio_to_floor"], ".3g"),
            text(ratio, ".3g"),
            row["note"],
        ]
        print("| " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", default=",".join(SHAPES), help="batch x n x m x dim, or ragged")
    parser.add_argument("--epsilons", default=",".join(map(str, EPSILONS)))
    parser.add_argument("--methods", default="*", help="names or patterns, separated by commas")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--budget", type=float, default=20, help="seconds; slower: one timed call")
    parser.add_argument(
        "--memory", type=float, default=8, help="GiB for a loop that autograd records"
    )
    parser.add_argument("--json", type=Path, help="also write the rows and the machine here")
    arguments = parser.parse_args()
    logging.getLogger("otreg").setLevel(logging.ERROR)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    threads = torch.get_num_threads()
    bound_threads(threads)
    memory = address_space() + int(arguments.memory * 2**30)
    methods = methods_of(arguments.methods)
    report: dict[str, Any] = {**machine(threads), "keeps_freed_memory": keep_freed_memory()}
    report |= {"rule": RULE, "seed": SEED, "rows": []}
    tables = []
    for shape in arguments.shapes.split(","):
        problem = make_problem(shape)
        for epsilon in map(float, arguments.epsilons.split(",")):
            print(f"measuring {shape} at epsilon {epsilon:g}", flush=True)
            rows = measure(problem, epsilon, methods, arguments.repeats, arguments.budget, memory)
            tables.append(rows)
            report["rows"] += rows
            if arguments.json:
                arguments.json.parent.mkdir(parents=True, exist_ok=True)
                arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for rows in tables:
        print_table(rows)


if __name__ == "__main__":
    main()
