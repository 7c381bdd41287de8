"""The solver as one Triton kernel (triton_sweeps.py), for GPUs; triton is imported on first use."""

import importlib.util
import math
import os

import torch

from otreg.transport.problem import LOG_TINY, Problem, Solution

_MIN_BLOCK = 16  # below it, fewer variants to compile are worth more than fewer idle lanes
# The bytes of K that a program holds at a time, and of them a warp: with more, registers spill.
_TILE, _TILE_OF_WARP = 16384, 512


def is_available(device: torch.device) -> bool:
    """Say whether the kernel can run on a device: triton's interpreter makes a CPU one too."""
    if importlib.util.find_spec("triton") is None:
        return False
    return device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"


def solve_triton(problem: Problem) -> Solution:
    """Solve every problem to the fixed point of the sweeps that `otreg.transport.sinkhorn` states.

    One kernel launch, one program for each problem; the host waits for nothing.

    Raises:
        ImportError: triton is not installed; see `is_available`.
    """
    from otreg.transport.triton_sweeps import solve_kernel

    batch, n, m = problem.cost.shape
    tensors = (problem.cost, problem.a, problem.b, problem.g)
    cost, a, b, g = (x.contiguous() for x in tensors)
    f, u = torch.empty_like(a), torch.ones_like(a)
    potentials, plan = torch.empty_like(b), torch.empty_like(cost)
    num_iters = torch.empty(batch, dtype=torch.long, device=cost.device)
    error = torch.empty(batch, dtype=cost.dtype, device=cost.device)
    log_tiny = LOG_TINY[cost.dtype]
    block_n, block_m, num_warps = block_sizes(n, m, cost.element_size())
    with torch.cuda.device_of(cost):  # triton launches on the current device
        solve_kernel[(batch,)](
            *(cost, a, b, g, f, potentials, u, plan, num_iters, error),
            *(n, m, problem.max_iter),
            *map(float, (problem.epsilon, problem.tau_a, problem.tau_b, problem.tol)),
            BALANCED_A=problem.tau_a == 1,
            BALANCED_B=problem.tau_b == 1,
            BLOCK_N=block_n,
            BLOCK_M=block_m,
            LOG_TINY=log_tiny,
            TINY=math.exp(log_tiny),
            num_warps=num_warps,
            enable_fp_fusion=True,
        )
    return Solution.of_plan(f, potentials, plan, num_iters, error)


def block_sizes(n: int, m: int, element_size: int = 4) -> tuple[int, int, int]:
    """Rows and columns of a tile of K, and the warps that share it.

    A tile has all columns, so that a row's sum is at hand when its column sums are due.
    """
    block_m = max(_power_of_two(m), _MIN_BLOCK)
    rows = max(_TILE // element_size // block_m, 1)
    block_n = max(min(_power_of_two(n), rows), min(_MIN_BLOCK, rows))
    num_warps = block_n * block_m * element_size // _TILE_OF_WARP
    return block_n, block_m, min(max(num_warps, 1), 16)


def _power_of_two(size: int) -> int:
    """The smallest power of two that is at least `size`."""
    return 1 << max(size - 1, 0).bit_length()
