"""Peak memory of the whole loss, forward and backward, beside the floor's.

    python benchmarks/transport_memory.py --shape 32x375x80x1024

Each method runs in a process of its own; what is told is the highest resident memory above that with
the inputs made and torch warm (Linux only). The floor is the cosine cost and its way back with a fixed plan.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from otreg.transport import cosine_cost, cosine_transport, sinkhorn

METHODS = ("floor", "fused", "composed")


def memory_mib(name: str) -> float:
    """A line of Linux's account of this process: VmRSS = resident now, VmHWM = at its highest."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def step(method: str, x: Tensor, y: Tensor, a: Tensor, b: Tensor, epsilon: float) -> None:
    """One forward and backward pass to x."""
    x.grad = None
    if method == "floor":
        plan = a.unsqueeze(2) * b.unsqueeze(1)
        cosine = torch.bmm(normalize(x, dim=-1), normalize(y, dim=-1).transpose(1, 2))
        (plan * (1 - cosine)).sum().backward()
    elif method == "fused":
        cosine_transport(x, y, a, b, epsilon=epsilon).cost.sum().backward()
    else:
        cost = cosine_cost(x, y)
        (sinkhorn(cost, a, b, epsilon=epsilon).plan * cost).sum().backward()


def measure(method: str, shape: list[int], epsilon: float) -> float:
    """MiB above the inputs, in this process."""
    batch, n, m, dim = shape
    torch.manual_seed(0)
    small = (torch.randn(1, 9, 8, requires_grad=True), torch.randn(1, 4, 8))
    masses = (torch.full((1, 9), 1 / 9), torch.full((1, 4), 1 / 4))
    step(method, *small, *masses, epsilon)  # libraries are loaded and threads started
    y = torch.randn(batch, m, dim)
    x = y[:, torch.arange(n) * m // n] + torch.randn(batch, n, dim)
    x.requires_grad_()
    a, b = torch.full((batch, n), 1 / n), torch.full((batch, m), 1 / m)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forgets the highest so far
    before = memory_mib("VmRSS")
    step(method, x, y, a, b, epsilon)
    return memory_mib("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", default="32x375x80x1024", help="batch x n x m x dim")
    parser.add_argument("--epsilon", type=float, default=0.02)
    parser.add_argument("--method", choices=METHODS, help="this one alone, in this process")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    shape = [int(size) for size in arguments.shape.split("x")]
    if arguments.method:
        print(measure(arguments.method, shape, arguments.epsilon))
        return
    peaks = {}
    for method in METHODS:
        command = [sys.executable, __file__, "--shape", arguments.shape, "--method", method]
        command += ["--epsilon", str(arguments.epsilon)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks[method] = float(done.stdout)
    print("| method | peak MiB | share of the floor |\n|---|---|---|")
    for method, peak in peaks.items():
        print(f"| {method} | {peak:.0f} | {peak / peaks['floor']:.2f} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(peaks, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
