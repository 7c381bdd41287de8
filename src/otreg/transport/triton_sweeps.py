"""The Triton kernel behind `otreg.transport.triton_kernel`; importing this imports triton.

One program solves one problem, and decides by itself when to stop. The plan's own memory holds the
kernel K = a b' exp((f + g - C)/epsilon) of the potentials last absorbed; each sweep reads it once,
in tiles of BLOCK_N rows by all columns. Vectors over columns live in registers, vectors over rows
in global memory, where one multiprocessor's cache keeps both them and a K of usual size. The
iteration is that of csrc/problem.h, in units of epsilon.
"""

from typing import no_type_check  # also keeps the tests' shape checks off the kernels

import triton
import triton.language as tl

_SWEEPS_PER_CHECK = tl.constexpr(5)  # sweeps between two looks at the rate of convergence
_FIRST_RATE = tl.constexpr(0.9)  # too much momentum at first costs less than too little
_MAX_DRIFT = tl.constexpr(30.0)  # how far log u and log v may run before they are absorbed
_MAX_RATE = tl.constexpr(0.999)
_MAX_RATE_FAR = tl.constexpr(0.98)
_FAR = tl.constexpr(0.1)
_NEVER = tl.constexpr(-1e30)  # the log of a zero mass, finite so that nothing real makes a NaN


@triton.jit
@no_type_check
def _log_mass(mass):
    """Log of positive masses; 0 at padding."""
    return tl.log(tl.where(mass > 0, mass, 1.0))


@triton.jit
@no_type_check
def _bounded(x, bound):
    """x within [-bound, bound]; NaN stays. (tl.clamp of float64 fails to compile for Hopper.)"""
    x = tl.maximum(x, -bound, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(x, bound, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
@no_type_check
def _residual(marginal, mass, potential, tau, BALANCED: tl.constexpr, TINY: tl.constexpr):
    """Distance of a marginal from its mass (balanced) or from its next update (relaxed)."""
    if BALANCED:
        return tl.abs(marginal - mass)
    ratio = tl.log(tl.maximum(mass, TINY) / tl.maximum(marginal, TINY))
    step = tau * (potential + ratio) - potential
    return tl.abs(marginal * (tl.exp(tl.minimum(step, _MAX_DRIFT)) - 1.0))


@triton.jit
@no_type_check
def _start_rows(
    cost_ptr, a_ptr, f_ptr, g, log_b, real_columns, columns, n, m, scale, tau_a,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """f = tau_a T'(g), in the log domain; returns the mass of the rows."""
    base = log_b + g
    mass = tl.zeros((BLOCK_N,), base.dtype)
    for start in range(0, n, BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        a = tl.load(a_ptr + rows, mask=rows < n, other=0.0)
        inside = (rows < n)[:, None] & (columns < m)[None, :]  # unlike a mask of masses: vectors
        cost = tl.load(cost_ptr + rows[:, None] * m + columns[None, :], mask=inside, other=0.0)
        exponent = tl.where(real_columns[None, :], base[None, :] - cost * scale, _NEVER)
        highest = tl.max(exponent, 1)
        total = tl.sum(tl.exp(exponent - highest[:, None]), 1)
        f = -tau_a * (highest + tl.log(total))
        tl.store(f_ptr + rows, tl.where(a > 0, f, 0.0), mask=rows < n)
        mass += a
    return tl.sum(mass)


@triton.jit
@no_type_check
def _absorb(
    cost_ptr, a_ptr, f_ptr, u_ptr, plan_ptr, g, log_b, real_columns, columns, n, m, scale, tau_a,
    BALANCED: tl.constexpr, BLOCK_N: tl.constexpr, LOG_TINY: tl.constexpr, TINY: tl.constexpr,
):  # fmt: skip
    """Move u into f and make K of f and g; returns K's column sums and the error of its rows."""
    tl.debug_barrier()  # f and u were stored by other threads
    base = log_b + g
    error = tl.zeros((BLOCK_N,), base.dtype)
    totals = tl.zeros((BLOCK_N, base.shape[0]), base.dtype)
    for start in range(0, n, BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        a = tl.load(a_ptr + rows, mask=rows < n, other=0.0)
        f = tl.load(f_ptr + rows, mask=rows < n, other=0.0)
        f += tl.log(tl.load(u_ptr + rows, mask=rows < n, other=1.0))
        tl.debug_barrier()  # several threads hold one row: all have read f before one moves it
        tl.store(f_ptr + rows, f, mask=rows < n)
        real = (a > 0)[:, None] & real_columns[None, :]
        inside = (rows < n)[:, None] & (columns < m)[None, :]
        place = rows[:, None] * m + columns[None, :]
        cost = tl.load(cost_ptr + place, mask=inside, other=0.0)
        exponent = (_log_mass(a) + f)[:, None] + base[None, :] - cost * scale
        kernel = tl.where(real, tl.exp(_bounded(exponent, -LOG_TINY)), 0.0)
        tl.store(plan_ptr + place, kernel, mask=inside)
        error += _residual(tl.sum(kernel, 1), a, f, tau_a, BALANCED, TINY)
        totals += kernel
    tl.debug_barrier()
    return tl.sum(totals, 0), tl.sum(error)


@triton.jit
@no_type_check
def _sweep_rows(
    a_ptr, f_ptr, u_ptr, plan_ptr, v, columns, n, m, tau_a,
    BALANCED: tl.constexpr, BLOCK_N: tl.constexpr, TINY: tl.constexpr,
):  # fmt: skip
    """u so that f + log u = tau_a T'(g), and K'u in the same pass; returns K'u and u's drift."""
    lowest, highest = tl.exp(-_MAX_DRIFT), tl.exp(_MAX_DRIFT)
    totals = tl.zeros((BLOCK_N, v.shape[0]), v.dtype)
    largest = tl.full((BLOCK_N,), 1.0, v.dtype)
    smallest = tl.full((BLOCK_N,), 1.0, v.dtype)
    for start in range(0, n, BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        inside = (rows < n)[:, None] & (columns < m)[None, :]
        kernel = tl.load(plan_ptr + rows[:, None] * m + columns[None, :], mask=inside, other=0.0)
        a = tl.load(a_ptr + rows, mask=rows < n, other=0.0)
        row_sum = tl.maximum(tl.sum(kernel * v[None, :], 1), TINY)
        if BALANCED:
            u = a / row_sum
        else:
            f = tl.load(f_ptr + rows, mask=rows < n, other=0.0)
            log_u = tau_a * (f + _log_mass(a) - tl.log(row_sum)) - f
            u = tl.exp(tl.minimum(log_u, _MAX_DRIFT))
        u = tl.where(a > 0, tl.minimum(tl.maximum(u, lowest), highest), 1.0).to(v.dtype)
        tl.store(u_ptr + rows, u, mask=rows < n)
        largest = tl.maximum(largest, u)
        smallest = tl.minimum(smallest, u)
        totals += u[:, None] * kernel
    drift = tl.maximum(tl.log(tl.max(largest)), -tl.log(tl.min(smallest)))
    return tl.sum(totals, 0), drift


@triton.jit
@no_type_check
def _next_rate(rate, alpha, beta, error, last_error):
    """The rate of plain Sinkhorn read off the error's decay, and whether momentum starts afresh.

    Once omega has settled, a mode with eigenvalue l obeys z^2 - (1 + beta - alpha (1 - l)) z + beta
    = 0, so a decay z = q slower than sqrt(beta) reveals l. Otherwise the momentum is enough or too
    much, and is eased.
    """
    ratio = tl.minimum(tl.maximum(error / tl.maximum(last_error, 1e-37), 1e-6), 1e6)
    q = tl.exp(tl.log(ratio) / _SWEEPS_PER_CHECK)
    grew = q >= 1
    seen = tl.maximum(rate, 1 - (1 + beta - q - beta / q) / alpha)
    eased = tl.where(grew, 1 - 2 * (1 - rate), 1 - 1.5 * (1 - rate))
    rate = tl.where((q > tl.sqrt(tl.maximum(beta, 0.0))) & (q < 1), seen, eased)
    cap = tl.where(error > _FAR, _MAX_RATE_FAR, _MAX_RATE)
    return tl.minimum(tl.maximum(rate, 0.0), cap).to(error.dtype), grew


@triton.jit
@no_type_check
def solve_kernel(
    cost_ptr, a_ptr, b_ptr, start_ptr, f_ptr, g_ptr, u_ptr, plan_ptr, num_iters_ptr, error_ptr,
    n, m, max_iter,
    epsilon: tl.float64, tau_a: tl.float64, tau_b: tl.float64, tol: tl.float64,
    BALANCED_A: tl.constexpr, BALANCED_B: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
    LOG_TINY: tl.constexpr, TINY: tl.constexpr,
):  # fmt: skip
    """Solve problem `program_id(0)`; u must hold ones."""
    dtype: tl.constexpr = cost_ptr.dtype.element_ty
    epsilon = tl.full((), epsilon, dtype)
    tau_a, tau_b = tl.full((), tau_a, dtype), tl.full((), tau_b, dtype)
    tol = tl.full((), tol, dtype)
    scale = 1 / epsilon

    problem = tl.program_id(0).to(tl.int64)
    cost_ptr += problem * n * m
    plan_ptr += problem * n * m
    a_ptr += problem * n
    f_ptr += problem * n
    u_ptr += problem * n
    columns = tl.arange(0, BLOCK_M)
    of_columns = problem * m + columns
    b = tl.load(b_ptr + of_columns, mask=columns < m, other=0.0)
    real_columns = b > 0
    log_b = _log_mass(b)
    g = tl.load(start_ptr + of_columns, mask=columns < m, other=0.0) * scale
    g = tl.where(real_columns, g, 0.0)

    mass = _start_rows(
        cost_ptr, a_ptr, f_ptr, g, log_b, real_columns, columns, n, m, scale, tau_a, BLOCK_N
    )  # fmt: skip
    column_sum, error = _absorb(
        cost_ptr, a_ptr, f_ptr, u_ptr, plan_ptr, g, log_b, real_columns, columns, n, m, scale,
        tau_a, BALANCED_A, BLOCK_N, LOG_TINY, TINY,
    )  # fmt: skip
    error += tl.sum(_residual(column_sum, b, g, tau_b, BALANCED_B, TINY))
    empty = (mass <= 0) | (tl.sum(b) <= 0)
    mass = tl.where(empty, 1.0, mass).to(dtype)
    error = tl.where(empty, 0.0, error / mass).to(dtype)

    log_v = tl.zeros((BLOCK_M,), dtype)
    change = tl.zeros((BLOCK_M,), dtype)
    rate = tl.full((), _FIRST_RATE, dtype)
    omega = tl.full((), 1.0, dtype)
    last_error = tl.full((), -1.0, dtype)
    since_restart = tl.full((), 0, tl.int32)
    num_iters = tl.full((), 0, tl.int32)
    running = not (error <= tol)
    while running:
        # Chebyshev's semi-iteration for a map with eigenvalues in [0, rate].
        rho = rate / (2 - rate)
        share = tl.where(since_restart == 1, 0.5, 0.25)
        omega = tl.where(since_restart == 0, 1.0, 1 / (1 - rho * rho * omega * share)).to(dtype)
        since_restart += 1
        alpha, beta = omega * 2 / (2 - rate), omega - 1

        # g <- g + alpha (tau_b T(f) - g) + beta change; the error is the one before it.
        marginal = tl.maximum(column_sum, TINY)  # without v
        step = tau_b * (g + log_b - tl.log(marginal)) - (g + log_v)
        here = marginal * tl.exp(log_v)
        off = tl.abs(here - b)
        if not BALANCED_B:
            off = tl.abs(here * (tl.exp(tl.minimum(step, _MAX_DRIFT)) - 1.0))
        seen_error = tl.sum(tl.where(real_columns, off, 0.0)) / mass
        change = tl.where(real_columns, alpha * step + beta * change, 0.0)
        log_v = _bounded(log_v + change, _MAX_DRIFT)
        v = tl.where(real_columns, tl.exp(log_v), 0.0)

        column_sum, drift = _sweep_rows(
            a_ptr, f_ptr, u_ptr, plan_ptr, v, columns, n, m, tau_a, BALANCED_A, BLOCK_N, TINY
        )
        drift = tl.maximum(drift, tl.max(tl.abs(log_v)))
        num_iters += 1
        if num_iters % _SWEEPS_PER_CHECK == 0:
            if last_error > 0:
                rate, grew = _next_rate(rate, alpha, beta, seen_error, last_error)
                change = tl.where(grew, 0.0, change)
                since_restart = tl.where(grew, 0, since_restart)
            last_error = seen_error

        # Absorbing has the last word on the error, for what a sweep sees is before its update.
        stop = (num_iters >= max_iter) | (not (seen_error > tol))
        if stop | (drift > _MAX_DRIFT / 2):
            g += log_v
            log_v = tl.zeros((BLOCK_M,), dtype)
            column_sum, error = _absorb(
                cost_ptr, a_ptr, f_ptr, u_ptr, plan_ptr, g, log_b, real_columns, columns, n, m,
                scale, tau_a, BALANCED_A, BLOCK_N, LOG_TINY, TINY,
            )  # fmt: skip
            error += tl.sum(_residual(column_sum, b, g, tau_b, BALANCED_B, TINY))
            error /= mass
            running = (num_iters < max_iter) & (not (error <= tol))

    tl.debug_barrier()
    for start in range(0, n, BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        f = tl.load(f_ptr + rows, mask=rows < n, other=0.0)
        tl.debug_barrier()
        tl.store(f_ptr + rows, tl.where(empty, 0.0, f * epsilon), mask=rows < n)
    tl.store(g_ptr + of_columns, g * epsilon, mask=columns < m)
    tl.store(num_iters_ptr + problem, num_iters)
    tl.store(error_ptr + problem, error)
