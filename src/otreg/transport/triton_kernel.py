"""The solver as one Triton kernel (triton_sweeps.py), for GPUs; triton is imported on first use."""

# ruff: noqa: F722
import importlib.util
import math
import os

import torch
from torch import Tensor

from otreg._shapes import Float, Int

_LOG_TINY = {torch.float32: -80.0, torch.float64: -650.0}
_MIN_BLOCK = 16  # below it, fewer variants to compile are worth more than fewer idle lanes
# The bytes of K that a program holds at a time, and of them a warp: with more, registers spill.
_TILE, _TILE_OF_WARP = 16384, 512


def is_available(device: torch.device) -> bool:
    """Say whether the kernel can run on a device: triton's interpreter makes a CPU one too."""
    if importlib.util.find_spec("triton") is None:
        return False
    return device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"


def solve_triton(
    cost: Float[Tensor, "batch n m"],
    a: Float[Tensor, "batch n"],
    b: Float[Tensor, "batch m"],
    g: Float[Tensor, "batch m"],
    epsilon: float,
    tau_a: float,
    tau_b: float,
    tol: float,
    max_iter: int,
) -> tuple[
    Float[Tensor, "batch n"],
    Float[Tensor, "batch m"],
    Float[Tensor, "batch n m"],
    Int[Tensor, " batch"],
    Float[Tensor, " batch"],
]:
    """Solve every problem to the fixed point of the sweeps that `otreg.transport.sinkhorn` states.

    One kernel launch, one program for each problem; the host waits for nothing.

    Args:
        cost: (batch, n, m) float32 or float64 costs, finite where both masses are positive.
        a: (batch, n) row masses of the same dtype; a zero mass is padding.
        b: (batch, m) column masses of the same dtype.
        g: (batch, m) column potentials to start from.
        epsilon: entropic regularisation.
        tau_a: rho_a / (rho_a + epsilon); 1 when rows are balanced.
        tau_b: the same for columns.
        tol: marginal error at which a problem stops.
        max_iter: the most sweeps.

    Returns:
        f (batch, n), g (batch, m), plan (batch, n, m), num_iters (batch,), marginal error (batch,).

    Raises:
        ImportError: triton is not installed; see `is_available`.
    """
    from otreg.transport.triton_sweeps import solve_kernel

    batch, n, m = cost.shape
    cost, a, b, g = (x.contiguous() for x in (cost, a, b, g))
    f, u = torch.empty_like(a), torch.ones_like(a)
    potentials, plan = torch.empty_like(b), torch.empty_like(cost)
    num_iters = torch.empty(batch, dtype=torch.long, device=cost.device)
    error = torch.empty(batch, dtype=cost.dtype, device=cost.device)
    log_tiny = _LOG_TINY[cost.dtype]
    block_n, block_m, num_warps = block_sizes(n, m, cost.element_size())
    with torch.cuda.device_of(cost):  # triton launches on the current device
        solve_kernel[(batch,)](
            *(cost, a, b, g, f, potentials, u, plan, num_iters, error),
            *(n, m, max_iter),
            *(float(x) for x in (epsilon, tau_a, tau_b, tol)),
            BALANCED_A=tau_a == 1,
            BALANCED_B=tau_b == 1,
            BLOCK_N=block_n,
            BLOCK_M=block_m,
            LOG_TINY=log_tiny,
            TINY=math.exp(log_tiny),
            num_warps=num_warps,
            enable_fp_fusion=True,
        )
    return f, potentials, plan, num_iters, error


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
