"""Entropic optimal transport on padded batches: the interface to every solver."""

# ruff: noqa: F722
import logging
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from otreg.shapes import Float
from otreg.transport.accelerated import solve_accelerated
from otreg.transport.checks import METHODS, check_masses, check_options, check_problem
from otreg.transport.compiled import is_available as compiled_is_available
from otreg.transport.compiled import solve_compiled
from otreg.transport.implicit import ImplicitPlan, ValueOfCost
from otreg.transport.newton import solve_newton
from otreg.transport.problem import LEAST, Problem, Solution, tau
from otreg.transport.reference import solve_reference
from otreg.transport.triton_kernel import is_available as triton_is_available
from otreg.transport.triton_kernel import solve_triton
from otreg.transport.unconverged import explain

__all__ = ["METHODS", "TransportResult", "check_options", "sinkhorn"]

logger = logging.getLogger(__name__)

_SOLVERS = {
    "reference": solve_reference,
    "accelerated": solve_accelerated,
    "compiled": solve_compiled,
    "triton": solve_triton,
    "newton": solve_newton,
}
# "auto" gives a problem that sweeps left unsolved to Newton's method, if it has at most so many
# columns and had at least so many sweeps.
_RESCUE_COLUMNS, _RESCUE_STEPS, _RESCUE_AFTER = 512, 60, 100
_FAR = 0.01  # marginal error above which Newton had better start from nothing


@dataclass(frozen=True)
class TransportResult:
    """A batch of solved transport problems.

    Args:
        plan: (batch, n, m) the transport plan; exactly 0 where a mass is 0.
        value: (batch,) <P, C> + epsilon KL(P | a b') + rho_a KL(P 1 | a) + rho_b KL(P' 1 | b), the
            rho terms only on relaxed sides; its gradient with respect to the cost is the plan.
        f: (batch, n) row potentials, P_ij = a_i b_j exp((f_i + g_j - C_ij) / epsilon); 0 at
            padding.
        g: (batch, m) column potentials; 0 at padding.
        num_iters: (batch,) sweeps that each problem took.
        marginal_error: (batch,) L1 distance of the plan's marginals from where they must be, as a
            share of the mass: from a and b on balanced sides, from what the next update would make
            them on relaxed ones.
        converged: (batch,) True where marginal_error <= tol.
        method: which solver it was; "+newton" behind it where problems went on to Newton's.
    """

    plan: Tensor
    value: Tensor
    f: Tensor
    g: Tensor
    num_iters: Tensor
    marginal_error: Tensor
    converged: Tensor
    method: str


def sinkhorn(
    cost: Float[Tensor, "batch n m"],
    a: Float[Tensor, "batch n"],
    b: Float[Tensor, "batch m"],
    *,
    epsilon: float,
    tol: float = 1e-3,
    max_iter: int = 1000,
    rho_a: float | None = None,
    rho_b: float | None = None,
    gradient: str = "envelope",
    init: Float[Tensor, "batch m"] | None = None,
    method: str = "auto",
) -> TransportResult:
    """Solve a padded batch of entropic transport problems, each as if it were alone.

    min_P  <P, C> + epsilon KL(P | a b')   subject to  P 1 = a,  P' 1 = b,

    where rho_a (rho_b) replaces the constraint on the rows (columns) by rho KL(P 1 | a).
    One sweep is

        g <- g + alpha (tau_b T(f) - g) + beta (last change of g)
        f <- tau_a T'(g)
        T(f)_j = -epsilon log sum_i a_i exp((f_i - C_ij) / epsilon),   T' likewise over columns
        tau = rho / (rho + epsilon),  1 on a balanced side

    Plain Sinkhorn has alpha = 1 and beta = 0. The fast solvers take both from Chebyshev's
    semi-iteration, at the rate of convergence that each problem shows. They multiply by K = a b'
    exp((f + g - C)/epsilon) in place of taking logarithms; the potentials are moved into K before
    they run out of range.

    Args:
        cost: (batch, n, m) costs; anything at padding, NaN and infinity included.
        a: (batch, n) row masses >= 0; a zero mass is padding.
        b: (batch, m) column masses >= 0; with both sides balanced each problem's totals must agree.
        epsilon: entropic regularisation > 0, in units of the cost.
        tol: the marginal error at which a problem stops, > 0.
        max_iter: the most sweeps, >= 1.
        rho_a: strength >= 0 of the KL penalty on the rows; None = balanced; 0 = rows are free.
        rho_b: the same for the columns.
        gradient: what autograd sees. "envelope": the value's exact gradient, the plan is detached.
            "unrolled": the plan also carries the gradient of the iterations that made it (memory
            grows with num_iters).
            "implicit": the plan also carries the exact gradient of the optimum, by one m x m solve.
            The value's gradient is the plan in every mode. Masses carry no gradient.
        init: (batch, m) column potentials g to start from, such as an earlier result's; None = 0.
        method: which solver. All reach the same fixed point.
            "compiled": the sweeps in C++, each problem alone and at its own size; on the CPU, built
            on first use where there is a compiler.
            "triton": the sweeps as one kernel; on CUDA devices.
            "accelerated": the sweeps in torch, on any device; the one with an unrolled gradient.
            "newton": Newton on the semi-dual in float64; few steps of m^3, for tiny epsilon.
            "reference": plain Sinkhorn in the log domain; slow, to read and to test others by.
            "auto": the first that can be had of "compiled" (CPU), "triton" (CUDA) and "accelerated".
            Problems that it leaves short of tol after max_iter >= 100 sweeps go on to "newton" where
            m is at most 512, but for an unrolled gradient.

    Returns:
        TransportResult in float32 whatever the autocast (float64 stays float64). A problem that did
        not reach tol has converged False and is logged as a warning.

    Raises:
        ValueError: on shapes, masses or options out of range, or a method that is not available.

    Source: Cuturi 2013 (arXiv 1306.0895); KL-relaxed marginals: Chizat et al. 2018 (arXiv
        1607.05816); absorption: Schmitzer 2019 (arXiv 1610.06519); over-relaxation: Thibault et al.
        2017 (arXiv 1711.01851), here as Chebyshev's semi-iteration on g so that rows stay exact.

    Example:
        >>> cost = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
        >>> half = torch.full((1, 2), 0.5)
        >>> sinkhorn(cost, half, half, epsilon=0.1).plan.round(decimals=2)
        tensor([[[0.5000, 0.0000],
                 [0.0000, 0.5000]]])
    """
    check_options(
        epsilon=epsilon,
        tol=tol,
        max_iter=max_iter,
        rho_a=rho_a,
        rho_b=rho_b,
        gradient=gradient,
        method=method,
    )
    check_problem(cost, a, b, init)
    dtype = torch.float64 if cost.dtype == torch.float64 else torch.float32
    with torch.autocast(device_type=cost.device.type, enabled=False):
        a, b = a.detach().to(dtype), b.detach().to(dtype)
        masses = a.sum(1), b.sum(1)
        check_masses(a, b, masses, balanced=rho_a is None and rho_b is None)
        start = torch.zeros_like(b)
        if init is not None:
            start = init.detach().to(dtype).masked_fill(b <= 0, 0.0)
        taus = tau(rho_a, epsilon), tau(rho_b, epsilon)
        cost = cost.to(dtype)
        problem = Problem(cost.detach(), a, b, start, epsilon, *taus, tol, max_iter)
        name = _choose_method(method, gradient, cost)
        if cost.numel() == 0:
            name = "reference"  # there is nothing to solve
        unrolled = gradient == "unrolled" and torch.is_grad_enabled()
        with torch.set_grad_enabled(unrolled):
            solution = _SOLVERS[name](replace(problem, cost=cost) if unrolled else problem)
        if name != "compiled":  # which sees to it itself
            solution = _finished(problem, solution)
        converged = solution.error <= tol
        if not bool(converged.all()):
            if method == "auto" and gradient != "unrolled" and _can_rescue(problem):
                _rescue(problem, solution, (~converged).nonzero().flatten())
                converged, name = solution.error <= tol, f"{name}+newton"
            if not bool(converged.all()):
                logger.warning(explain(problem, solution, masses, name, gradient))
        plan, f, g = solution.plan, solution.f.detach(), solution.g.detach()
        value = _value(problem, solution, masses[0] * masses[1], rho_a, rho_b)
        if cost.requires_grad:
            value = ValueOfCost.apply(cost, plan.detach(), value)
            if gradient == "implicit":
                plan = ImplicitPlan.apply(cost, plan, epsilon, *taus)
    return TransportResult(plan, value, f, g, solution.num_iters, solution.error, converged, name)


def _choose_method(method: str, gradient: str, cost: Tensor) -> str:
    """The solver to use: what was asked for, where it can be had."""
    device = cost.device
    on_cpu = device.type == "cpu"
    if method == "auto":
        if gradient == "unrolled":
            return "accelerated"
        if on_cpu and compiled_is_available():
            return "compiled"
        on_cuda = device.type == "cuda" and triton_is_available(device)
        return "triton" if on_cuda else "accelerated"
    if method == "compiled":
        if not on_cpu:
            raise ValueError(
                f"method 'compiled' solves on the CPU, got a cost on {device.type!r}; pass "
                "method='auto'"
            )
        if not compiled_is_available():
            raise ValueError(
                "method 'compiled' could not be built here (it needs a C++ compiler and ninja; the "
                "log says why); pass method='auto'"
            )
    if method == "triton" and not triton_is_available(device):
        raise ValueError(
            f"method 'triton' needs the package triton and a CUDA device, got a cost on "
            f"{device.type!r}; pass method='auto'"
        )
    return method


def _finished(problem: Problem, solution: Solution) -> Solution:
    """Without the least entries, and with the rows in the error.

    Rows are exact in every solver, but for one whose mass can go nowhere: that is an error too.
    """
    mass = problem.a.sum(1)
    least = (LEAST[problem.a.dtype] * mass)[:, None, None]
    plan, error = torch.where(solution.plan > least, solution.plan, 0.0), solution.error.detach()
    if problem.tau_a == 1:
        apart = (solution.rows.detach() - problem.a).abs().sum(1)
        error = torch.maximum(error, apart / mass.clamp(min=1e-30))
    return replace(solution, plan=plan, error=error)


def _can_rescue(problem: Problem) -> bool:
    return problem.max_iter >= _RESCUE_AFTER and problem.b.shape[1] <= _RESCUE_COLUMNS


def _rescue(problem: Problem, solution: Solution, short: Tensor) -> None:
    """Give the problems at `short` to Newton's method; write what is better into the solution.

    Potentials far from the answer would keep it from starting at a large epsilon: they are dropped.
    """
    near = (solution.error <= _FAR).unsqueeze(1)
    part = replace(problem, g=torch.where(near, solution.g, 0.0))
    part = part.part(short, *problem.cost.shape[1:])
    part = replace(part, max_iter=min(problem.max_iter, _RESCUE_STEPS))
    better = _finished(part, solve_newton(part))
    closer = better.error.nan_to_num(math.inf) < solution.error[short].nan_to_num(math.inf)
    num_iters = solution.num_iters[short] + better.num_iters
    solution.put(short[closer], Solution(*(x[closer] for x in vars(better).values())))
    solution.num_iters[short] = num_iters  # the steps count, whether they helped or not


def _value(
    problem: Problem,
    solution: Solution,
    mass: Float[Tensor, " batch"],
    rho_a: float | None,
    rho_b: float | None,
) -> Float[Tensor, " batch"]:
    """The primal value at the plan, where a b' sums to `mass`."""
    # <P, C> + epsilon KL(P | a b') with log P/(a b') = (f + g - C) / epsilon put in.
    rows, columns = solution.rows.detach(), solution.columns.detach()
    value = torch.linalg.vecdot(rows, solution.f.detach())
    value = value + torch.linalg.vecdot(columns, solution.g.detach())
    value = value + problem.epsilon * (mass - rows.sum(1))
    if rho_a is not None:
        value = value + rho_a * _kl(rows, problem.a)
    if rho_b is not None:
        value = value + rho_b * _kl(columns, problem.b)
    return value


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p | q) = sum p log(p/q) - p + q, of unnormalised masses; 0 log 0 = 0."""
    positive = (p > 0) & (q > 0)
    log_ratio = (torch.where(positive, p, 1.0) / torch.where(positive, q, 1.0)).log()
    return (p * log_ratio - p + q).sum(1)
