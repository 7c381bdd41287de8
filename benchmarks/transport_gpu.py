"""Time the transport solvers on a CUDA GPU against the least that any such loss must do.

    python benchmarks/transport_gpu.py [--json FILE]

One row for each problem size and epsilon: median times in microseconds of the Triton kernel
(`triton`), of the solver in torch (`torch`) and of the floor: normalise bf16 embeddings, one
bmm forward, and the backward pass with a fixed plan. `error` is the largest marginal error of the
Triton plan summed in float64, `off` the largest L1 distance of a Triton plan from that of Newton's
method in float64, both at tolerance 1e-3 and as a share of the mass. Exits 2 without a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from otreg.transport import cosine_cost
from otreg.transport.accelerated import solve_accelerated
from otreg.transport.newton import solve_newton
from otreg.transport.problem import Problem
from otreg.transport.triton_kernel import is_available, solve_triton

SIZES = [(32, 375, 80, 4096), (8, 100, 20, 256), (8, 1500, 400, 1024)]  # batch, n, m, dim
EPSILONS = [0.05, 0.02, 0.01]
TOL, EXACT_TOL, MAX_ITER = 1e-3, 1e-9, 20_000


def median_us(work: Callable[[], object], repeats: int) -> float:
    """Median time between two CUDA events around the work, after a warm-up."""
    for _ in range(3):
        work()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(1000 * start.elapsed_time(end))
    return median(times)


def floor(x: Tensor, y: Tensor, plan: Tensor) -> None:
    """<P, C> of the cosine cost and its gradient in the embeddings, the plan fixed."""
    x_unit = torch.nn.functional.normalize(x, dim=2)
    y_unit = torch.nn.functional.normalize(y, dim=2)
    similarity = torch.bmm(x_unit, y_unit.mT)
    torch.autograd.grad(similarity, (x, y), plan)


def measure(
    x: Tensor, y: Tensor, epsilon: float, repeats: int
) -> dict[str, int | float | tuple[int, ...]]:
    batch, n, dim = x.shape
    m = y.shape[1]
    cost = cosine_cost(x.detach(), y.detach())
    a, b = torch.full((batch, n), 1 / n).to(cost), torch.full((batch, m), 1 / m).to(cost)
    start = torch.zeros_like(b)
    problem = Problem(cost, a, b, start, epsilon, 1.0, 1.0, TOL, MAX_ITER)
    solution = solve_triton(problem)
    marginals = solution.plan.double()
    error = (marginals.sum(2) - a.double()).abs().sum(1)
    error = error + (marginals.sum(1) - b.double()).abs().sum(1)
    a_exact, b_exact = (torch.full_like(mass.double(), 1 / mass.shape[1]) for mass in (a, b))
    exact = solve_newton(replace(problem.double(), a=a_exact, b=b_exact, tol=EXACT_TOL))
    fixed = solution.plan.to(x.dtype)
    return {
        "size": (batch, n, m, dim),
        "epsilon": epsilon,
        "sweeps": int(solution.num_iters.max()),
        "triton_us": median_us(lambda: solve_triton(problem), repeats),
        "torch_us": median_us(lambda: solve_accelerated(problem), max(repeats // 5, 3)),
        "floor_us": median_us(lambda: floor(x, y, fixed), repeats),
        "error": float(error.max()),
        "off": float((marginals - exact.plan).abs().sum((1, 2)).max()),
        "exact_error": float(exact.error.max()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows here")
    parser.add_argument("--repeats", type=int, default=50)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("transport_gpu: no CUDA GPU here; nothing was measured", file=sys.stderr)
        return 2
    if not is_available(torch.device("cuda")):
        print(
            "transport_gpu: triton is not installed; pip install 'otreg[triton]'", file=sys.stderr
        )
        return 2
    device = torch.cuda.get_device_name()
    print(f"{device}, torch {torch.__version__}, tolerance {TOL:g}, medians in microseconds")
    print(
        "batch x n x m x dim    epsilon  sweeps    triton      torch     floor     error       off"
    )
    rows = []
    for batch, n, m, dim in SIZES:
        torch.manual_seed(0)
        # Speech near the text that it says, in order: neither noise alone nor a solved problem.
        y = torch.randn(batch, m, dim, device="cuda")
        said = y[:, torch.arange(n, device="cuda") * m // n]
        x = said + 2 * torch.randn(batch, n, dim, device="cuda")
        x, y = (z.bfloat16().requires_grad_() for z in (x, y))
        for epsilon in EPSILONS:
            row = measure(x, y, epsilon, options.repeats)
            rows.append(row)
            print(
                f"{f'{batch} x {n} x {m} x {dim}':<22} {epsilon:>7g} {row['sweeps']:>7} "
                f"{row['triton_us']:>9.1f} {row['torch_us']:>10.1f} {row['floor_us']:>9.1f} "
                f"{row['error']:>9.1e} {row['off']:>9.1e}",
                flush=True,
            )
    if options.json:
        report = {"device": device, "torch": torch.__version__, "tol": TOL, "rows": rows}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
