"""The readable reference solver: sweeps in the log domain's safety, in plain torch."""

# ruff: noqa: F722
import math

import torch
from torch import Tensor

from otreg.shapes import Bool, Float
from otreg.transport.problem import Problem, Solution

_SWEEPS_PER_CHECK = 10  # sweeps between two absorptions; convergence is looked at there
_MAX_DRIFT = 30.0  # how far log u and log v may run before they are absorbed
_LOG_TINY = {torch.float32: -80.0, torch.float64: -650.0}  # exp of less is slow (denormal) or 0
_MAX_RATE = 0.999  # cap on the estimated rate of convergence: more momentum overshoots
_FAR, _MAX_RATE_FAR = 0.1, 0.98  # the cap while the marginal error is above _FAR


def solve_reference(problem: Problem) -> Solution:
    """Iterate to the fixed point of the sweeps that `otreg.transport.sinkhorn` states."""
    a, b, g, epsilon = problem.a, problem.b, problem.g, problem.epsilon
    tau_a, tau_b = problem.tau_a, problem.tau_b
    rows, columns, real = a > 0, b > 0, problem.real()
    cost = torch.where(real, problem.cost, 0.0)
    log_tiny = _LOG_TINY[cost.dtype]
    tiny = math.exp(log_tiny)
    log_a, log_b = log_mass_of(a), log_mass_of(b)
    log_mass = log_a.unsqueeze(2) + log_b.unsqueeze(1)
    f = -epsilon * torch.logsumexp(log_b.unsqueeze(1) + (g.unsqueeze(1) - cost) / epsilon, 2)
    f = torch.where(rows, tau_a * f, 0.0)

    mass = a.sum(1).clamp(min=tiny)
    num_iters = torch.zeros(len(cost), dtype=torch.long, device=cost.device)
    rate = torch.zeros(len(cost), 1, dtype=cost.dtype, device=cost.device)
    change = torch.zeros_like(g)  # the last change of g, in units of epsilon
    last_error: Tensor | None = None
    sweeps = 0
    while True:
        # Absorb: the kernel is the plan of the potentials so far, and u = v = 1.
        kernel = log_mass + (f.unsqueeze(2) + g.unsqueeze(1) - cost) / epsilon
        kernel = torch.where(real, kernel.clamp(min=log_tiny).exp(), 0.0)
        rows_sum, columns_sum = kernel.sum(2), kernel.sum(1)
        error = _residual(rows_sum, a, f, epsilon, tau_a, tiny)
        error = error + _residual(columns_sum, b, g, epsilon, tau_b, tiny)
        error = error.detach() / mass
        active = ~(error <= problem.tol)
        if sweeps >= problem.max_iter or not bool(active.any()):
            return Solution.of_plan(f, g, _plan(cost, a, b, f, g, epsilon, real), num_iters, error)
        if last_error is not None:
            rate, change = _update_rate(rate, change, error, last_error)

        alpha, beta = _heavy_ball(rate)
        block = min(_SWEEPS_PER_CHECK, problem.max_iter - sweeps)
        # In units of epsilon, g's update T(f) = g + log b - log K'u leaves v = exp(tau_b T(f) - g).
        ahead_b = tau_b * (g / epsilon + log_b) - g / epsilon
        ahead_a = tau_a * (f / epsilon + log_a) - f / epsilon
        log_v = torch.zeros_like(g)
        for _ in range(block):
            step = ahead_b - tau_b * columns_sum.clamp(min=tiny).log() - log_v
            change = alpha * step + beta * change
            log_v = (log_v + change).clamp(-_MAX_DRIFT, _MAX_DRIFT)
            rows_sum = torch.bmm(kernel, log_v.exp().unsqueeze(2)).squeeze(2)
            log_u = ahead_a - tau_a * rows_sum.clamp(min=tiny).log()
            log_u = log_u.clamp(-_MAX_DRIFT, _MAX_DRIFT)
            columns_sum = torch.bmm(log_u.exp().unsqueeze(1), kernel).squeeze(1)
        moving = active.unsqueeze(1)
        f = torch.where(moving & rows, f + epsilon * log_u, f)
        g = torch.where(moving & columns, g + epsilon * log_v, g)
        num_iters = num_iters + block * active
        last_error = error
        sweeps += block


def _heavy_ball(rate: Float[Tensor, "batch 1"]) -> tuple[Tensor, Tensor]:
    """Polyak's optimal step and momentum for an iteration map with eigenvalues in [0, rate]."""
    root = (1 - rate).sqrt()
    return 4 / (1 + root) ** 2, ((1 - root) / (1 + root)) ** 2


def _update_rate(
    rate: Float[Tensor, "batch 1"],
    change: Float[Tensor, "batch m"],
    error: Float[Tensor, " batch"],
    last_error: Float[Tensor, " batch"],
) -> tuple[Tensor, Tensor]:
    """Read the rate of plain Sinkhorn off the error's decay q per sweep under heavy ball.

    A mode with eigenvalue l obeys z^2 - (1 + beta - alpha (1 - l)) z + beta = 0, so a decay z = q
    slower than sqrt(beta) reveals l = 1 - (1 + beta - q - beta/q)/alpha. Otherwise the momentum is
    enough or too much, and is eased; where the error grew, the momentum also starts afresh.
    """
    alpha, beta = _heavy_ball(rate)
    ratio = error.unsqueeze(1) / last_error.unsqueeze(1).clamp(min=1e-300)
    q = ratio.nan_to_num(1.0).clamp(1e-6, 1e6) ** (1 / _SWEEPS_PER_CHECK)
    seen = 1 - (1 + beta - q - beta / q) / alpha
    grew = q >= 1
    slower = torch.where(grew, 1 - 2 * (1 - rate), 1 - 1.5 * (1 - rate))
    rate = torch.where((q > beta.sqrt()) & ~grew, torch.maximum(rate, seen), slower)
    cap = torch.where(error.unsqueeze(1) > _FAR, _MAX_RATE_FAR, _MAX_RATE)
    rate = torch.minimum(rate.clamp(min=0.0), cap.to(rate.dtype))
    return rate, torch.where(grew, 0.0, change)


def _residual(
    marginal: Tensor, mass: Tensor, potential: Tensor, epsilon: float, tau: float, tiny: float
) -> Float[Tensor, " batch"]:
    """L1 distance of a marginal from its mass (balanced) or from its next update (relaxed)."""
    if tau == 1:
        return (marginal - mass).abs().sum(1)
    log_ratio = (mass.clamp(min=tiny) / marginal.clamp(min=tiny)).log()
    step = tau * (potential / epsilon + log_ratio) - potential / epsilon
    return (marginal * torch.expm1(step.clamp(max=_MAX_DRIFT))).abs().sum(1)


def _plan(
    cost: Float[Tensor, "batch n m"],
    a: Float[Tensor, "batch n"],
    b: Float[Tensor, "batch m"],
    f: Float[Tensor, "batch n"],
    g: Float[Tensor, "batch m"],
    epsilon: float,
    real: Bool[Tensor, "batch n m"],
) -> Float[Tensor, "batch n m"]:
    """P_ij = a_i b_j exp((f_i + g_j - C_ij) / epsilon), exactly 0 at padding."""
    exponent = (f.unsqueeze(2) + g.unsqueeze(1) - cost) / epsilon
    exponent = exponent + log_mass_of(a).unsqueeze(2) + log_mass_of(b).unsqueeze(1)
    return torch.where(real, exponent.exp(), 0.0)


def log_mass_of(mass: Tensor) -> Tensor:
    """Log masses, finite at padding so that an empty problem makes no NaN."""
    return torch.where(mass > 0, mass, 1.0).log() + torch.where(mass > 0, 0.0, -1e30)
