"""Iterations and CPU time of every solver against epsilon and size, as docs/transport.svg.

    OMP_NUM_THREADS=1 python benchmarks/solver_plot.py --out docs/transport.svg

One thread, medians of interleaved runs on batches of 4 problems as in benchmarks/transport.py.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path
from statistics import median

import matplotlib
import torch
from _problems import cost_of, make_problem

from otreg.transport import sinkhorn
from otreg.transport.compiled import is_available

matplotlib.use("Agg")
import matplotlib.pyplot as plt

EPSILONS = (0.1, 0.05, 0.02, 0.01, 0.005, 0.002)
SIZES = ((50, 10), (100, 20), (200, 40), (375, 80), (750, 160), (1500, 320))
METHODS = ("reference", "accelerated", "compiled", "newton")
AT = {"size": (375, 80), "epsilon": 0.02}  # what the other axis is held at


def measure(n: int, m: int, epsilon: float, methods: list[str], repeats: int) -> dict:
    """(median iterations, median CPU seconds) by method, of what converged."""
    problem = make_problem(f"4x{n}x{m}x256")
    arguments = cost_of(problem.x, problem.y), problem.a, problem.b
    times: dict[str, list[float]] = {method: [] for method in methods}
    iterations = {}
    for repeat in range(repeats + 1):
        for method in methods:
            start = time.process_time()
            if method == "reference" and repeat:
                continue  # plain Sinkhorn takes too long to be run again
            result = sinkhorn(*arguments, epsilon=epsilon, max_iter=5000, method=method)
            if repeat or method == "reference":  # the first warms up
                times[method].append(time.process_time() - start)
            if bool(result.converged.all()):
                iterations[method] = float(result.num_iters.float().median())
    return {method: (count, median(times[method])) for method, count in iterations.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs/transport.svg"))
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    logging.getLogger("otreg").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    methods = [method for method in METHODS if method != "compiled" or is_available()]
    by_epsilon = [measure(*AT["size"], epsilon, methods, arguments.repeats) for epsilon in EPSILONS]
    by_size = [measure(*size, AT["epsilon"], methods, arguments.repeats) for size in SIZES]
    figure, axes = plt.subplots(2, 2, figsize=(9, 6), sharex="col", layout="constrained")
    rows = (
        (by_epsilon, EPSILONS, "epsilon", f"{AT['size'][0]} x {AT['size'][1]}"),
        (by_size, [n * m for n, m in SIZES], "frames x tokens", f"epsilon {AT['epsilon']}"),
    )
    for column, (measured, places, label, title) in enumerate(rows):
        for method in methods:
            known = [
                (x, row[method]) for x, row in zip(places, measured, strict=True) if method in row
            ]
            for line, (what, scale) in enumerate((("iterations", 1), ("CPU ms", 1e3))):
                values = [point[line] * scale for _, point in known]
                axes[line, column].loglog([x for x, _ in known], values, "o-", label=method)
                axes[line, column].set_ylabel(what)
                axes[line, column].grid(alpha=0.3)
        axes[0, column].set_title(title)
        axes[1, column].set_xlabel(label)
        print(f"| {label} | " + " | ".join(methods) + " |\n|" + "---|" * (len(methods) + 1))
        for x, row in zip(places, measured, strict=True):
            cells = [
                f"{row[k][0]:.0f}, {1e3 * row[k][1]:.2f} ms" if k in row else "–" for k in methods
            ]
            print(f"| {x} | " + " | ".join(cells) + " |")
    axes[0, 0].invert_xaxis()
    axes[0, 0].legend()
    figure.savefig(arguments.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
