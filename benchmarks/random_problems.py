"""Thousands of random transport problems, each answer checked in float64.

    python benchmarks/random_problems.py --count 10000
    python benchmarks/random_problems.py --count 1000 --methods reference,accelerated,compiled,newton

Five families of costs, scaled to a range of 1; n and m from 1 to 400, ragged batches; epsilon from 1
to 5e-4, log-uniform; masses that are equal, random, or partly near zero; some with repeated targets.
Checked of every problem:

    finite      no NaN or infinity in plan, value and potentials
    honest      one that says it converged has a marginal error of at most 1e-3, in float64
    optimal     its plan is the exact plan for the marginals that it has, by Newton in float64
    padding     the plan is exactly 0 there
    alone       the same plan with more padding, full of NaN, infinity or 1e6, and without batch mates:
                to the bit from the compiled solver, converged or not; torch's sums depend on the
                shape in their last digit, which thousands of sweeps carry to the tolerance, so
                within that elsewhere, where both answers say that they converged

Prints a line for each family, and exits with 1 where a check failed. "Distance" is the L1 distance to
the exact plan for the marginals that were asked for: what a marginal error of 1e-3 leaves open.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from otreg.transport import TransportResult, cosine_cost, sinkhorn
from otreg.transport.compiled import is_available

BATCH = 8
TOL = 1e-3
MAX_ITER = 2000
ROUNDING = 1.02  # of float32 marginals against float64 ones
FILLS = (float("nan"), float("inf"), 1e6)
FAMILIES = ("cosine", "uniform", "squared", "permutation", "heavy")
# Plans are made in float32 from potentials of up to 1/epsilon: what rounding does to an exponent.
OPTIMAL = 1e-3
SAME = 5 * TOL  # L1 distance between two answers that are both within TOL, at small epsilon


@dataclass
class Tally:
    """What came of the problems of a family."""

    count: int = 0
    unconverged: int = 0
    unchecked: int = 0  # comparisons for which Newton itself found no answer
    errors: list[float] = field(default_factory=list)
    optimal: list[float] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)
    sweeps: list[int] = field(default_factory=list)
    methods: dict[str, int] = field(default_factory=lambda: defaultdict(int))


def draw_size(generator: torch.Generator) -> int:
    """From 1 to 400: small ones as often as large ones."""
    return int(torch.rand((), generator=generator).mul(6.0).exp().clamp(1, 400))


def draw_cost(family: str, n: int, m: int, generator: torch.Generator) -> Tensor:
    """(n, m) float32 costs with a range of 1."""
    if family == "cosine":  # speech-like: each frame is a token of a monotone alignment, and noise
        tokens = torch.randn(m, 32, generator=generator)
        place = torch.arange(n) * m // n
        frames = tokens[place] + torch.randn(n, 32, generator=generator)
        cost = cosine_cost(frames, tokens)
    elif family == "uniform":
        cost = torch.rand(n, m, generator=generator)
    elif family == "squared":
        x, y = torch.randn(n, 1, 3, generator=generator), torch.randn(1, m, 3, generator=generator)
        cost = (x - y).square().sum(2)
    elif family == "permutation":  # one cheap cell in each row, all else alike
        cost = 1 + 0.01 * torch.rand(n, m, generator=generator)
        cost[torch.arange(n), torch.randperm(max(n, m), generator=generator)[:n] % m] = 0.0
    else:  # heavy: a few cells cost nearly everything
        cost = torch.randn(n, m, generator=generator).mul(2).exp()
    if m > 1 and torch.rand((), generator=generator) < 0.3:  # repeated targets
        source = torch.randint(0, m, (m // 2 + 1,), generator=generator)
        cost[:, torch.randint(0, m, (m // 2 + 1,), generator=generator)] = cost[:, source]
    spread = cost.max() - cost.min()
    return (cost - cost.min()) / spread if spread > 0 else torch.zeros(n, m)


def draw_mass(size: int, generator: torch.Generator) -> Tensor:
    """(size,) float64 masses that sum to 1."""
    kind = int(torch.randint(0, 3, (), generator=generator))
    mass = torch.ones(size).double()
    if kind:
        mass = torch.rand(size, generator=generator).double() + 0.01
    if kind == 2:
        tiny = torch.rand(size, generator=generator) < 0.2
        tiny[0] = False
        mass = torch.where(tiny, 1e-6 * mass, mass)
    return mass / mass.sum()


def padded(costs: list[Tensor], masses: list[Tensor], n: int, m: int, fill: float) -> list[Tensor]:
    cost = torch.full((len(costs), n, m), fill)
    a, b = torch.zeros(len(costs), n), torch.zeros(len(costs), m)
    for k, (c, (a_k, b_k)) in enumerate(zip(costs, masses, strict=True)):
        cost[k, : c.shape[0], : c.shape[1]] = c
        a[k, : len(a_k)], b[k, : len(b_k)] = a_k, b_k
    return [cost, a, b]


def check_batch(
    family: str, method: str, generator: torch.Generator, tally: Tally, complaints: list[str]
) -> None:
    sizes = [(draw_size(generator), draw_size(generator)) for _ in range(BATCH)]
    costs = [draw_cost(family, n, m, generator) for n, m in sizes]
    masses = [(draw_mass(n, generator), draw_mass(m, generator)) for n, m in sizes]
    low = torch.tensor(5e-4).log()
    epsilon = float((low * torch.rand((), generator=generator)).exp())
    options = {"epsilon": epsilon, "tol": TOL, "max_iter": MAX_ITER, "method": method}
    n, m = max(n for n, _ in sizes), max(m for _, m in sizes)
    result = sinkhorn(*padded(costs, masses, n, m, 0.0), **options)
    tally.methods[result.method] += BATCH
    same = 0.0 if result.method.startswith("compiled") else SAME

    def complain(k: int, what: str) -> None:
        complaints.append(f"{method} {family} {sizes[k]} epsilon {epsilon:.2g}: {what}")

    fill = FILLS[int(torch.randint(0, len(FILLS), (), generator=generator))]
    again = sinkhorn(*padded(costs, masses, n + 7, m + 5, fill), **options)
    for k, (rows, columns) in enumerate(sizes):
        check_problem(k, result, costs[k], masses[k], epsilon, tally, complain)
        plan = result.plan[k, :rows, :columns]
        comparable = bool(result.converged[k] & again.converged[k]) or same == 0
        apart = float((again.plan[k, :rows, :columns] - plan).abs().sum())
        if comparable and apart > same:
            complain(k, f"changed with more padding of {fill}")
        for rest in (result.plan[k, rows:], result.plan[k, :, columns:], again.plan[k, rows:]):
            if bool((rest != 0).any()):
                complain(k, "mass in the padding")
    k = int(torch.randint(0, BATCH, (), generator=generator))
    alone = sinkhorn(*padded([costs[k]], [masses[k]], *sizes[k], 0.0), **options)
    comparable = bool(result.converged[k] & alone.converged[0]) or same == 0
    rows, columns = sizes[k]
    apart = float((alone.plan[0] - result.plan[k, :rows, :columns]).abs().sum())
    if comparable and apart > same:
        complain(k, "changed without its batch mates")


def check_problem(
    k: int,
    result: TransportResult,
    cost: Tensor,
    masses: tuple[Tensor, Tensor],
    epsilon: float,
    tally: Tally,
    complain,
) -> None:
    n, m = cost.shape
    tally.count += 1
    tally.sweeps.append(int(result.num_iters[k]))
    everything = (result.plan[k], result.value[k], result.f[k], result.g[k])
    if not all(bool(torch.isfinite(x).all()) for x in everything):
        complain(k, "not finite")
        return
    plan = result.plan[k, :n, :m].double()
    a, b = (mass.float().double() for mass in masses)
    error = float((plan.sum(1) - a).abs().sum() + (plan.sum(0) - b).abs().sum())
    tally.errors.append(error if bool(result.converged[k]) else 0.0)
    if not bool(result.converged[k]):
        tally.unconverged += 1
        return
    if error > TOL * ROUNDING:
        complain(k, f"says that it converged, at a marginal error of {error:.2e}")
    exact = {"epsilon": epsilon, "tol": 1e-9, "max_iter": 100, "method": "newton"}
    start = result.g[k : k + 1, :m].double()
    own = plan.sum(1).unsqueeze(0), plan.sum(0).unsqueeze(0)
    for name, (p, q) in {
        "optimal": own,
        "distances": (a[None], (b * a.sum() / b.sum())[None]),
    }.items():
        solved = sinkhorn(cost.double().unsqueeze(0), p, q, init=start, **exact)
        apart = float((solved.plan[0] - plan).abs().sum())
        if not bool(solved.converged):
            tally.unchecked += 1
        else:
            getattr(tally, name).append(apart)
            if name == "optimal" and apart > OPTIMAL:
                complain(k, f"not the plan of its own marginals: {apart:.2e}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=10_000, help="problems for each method")
    parser.add_argument("--methods", default="auto", help="names, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    logging.getLogger("otreg").setLevel(logging.ERROR)  # what did not converge is counted below
    torch.set_num_threads(1)
    complaints: list[str] = []
    report = []
    print("| method | family | problems | unconverged, unchecked | worst error | optimal to | distance: "
          "median, worst | sweeps: median, most |\n|" + "---|" * 8)  # fmt: skip
    start = time.monotonic()
    for method in arguments.methods.split(","):
        if method == "compiled" and not is_available():
            print(f"{method}: not available here")
            continue
        generator = torch.Generator().manual_seed(arguments.seed)
        tallies = {family: Tally() for family in FAMILIES}
        batches = -(-arguments.count // BATCH)
        for number in range(batches):
            family = FAMILIES[number % len(FAMILIES)]
            check_batch(family, method, generator, tallies[family], complaints)
        for family, tally in tallies.items():
            if not tally.count:
                continue
            row = {
                "method": method,
                "family": family,
                "problems": tally.count,
                "unconverged": tally.unconverged,
                "unchecked": tally.unchecked,
                "worst_error": max(tally.errors),
                "optimal": max(tally.optimal, default=0.0),
                "distance_median": median(tally.distances or [0.0]),
                "distance_worst": max(tally.distances, default=0.0),
                "sweeps_median": median(tally.sweeps),
                "sweeps_most": max(tally.sweeps),
                "methods": dict(tally.methods),
            }
            report.append(row)
            print(
                f"| {method} | {family} | {tally.count} | "
                f"{tally.unconverged}, {tally.unchecked} | "
                f"{row['worst_error']:.2e} | {row['optimal']:.1e} | {row['distance_median']:.1e}, "
                f"{row['distance_worst']:.1e} | {row['sweeps_median']:.0f}, {row['sweeps_most']} |",
                flush=True,
            )
    print(f"{len(complaints)} complaints in {time.monotonic() - start:.0f} s")
    for complaint in complaints[:20]:
        print(complaint, file=sys.stderr)
    if arguments.json:
        data = {"rows": report, "complaints": complaints}
        arguments.json.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
