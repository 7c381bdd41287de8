"""From checked options to a solution: the choice of a solver, and what is common to all of them."""

# ruff: noqa: F722
import logging
import math
from dataclasses import replace

import torch
from torch import Tensor

from otreg.shapes import Float
from otreg.transport.accelerated import solve_accelerated
from otreg.transport.checks import check_masses
from otreg.transport.compiled import is_available as compiled_is_available
from otreg.transport.compiled import solve_compiled
from otreg.transport.newton import solve_newton
from otreg.transport.problem import LEAST, Problem, Solution, tau
from otreg.transport.reference import solve_reference
from otreg.transport.triton_kernel import is_available as triton_is_available
from otreg.transport.triton_kernel import solve_triton
from otreg.transport.unconverged import explain

logger = logging.getLogger(__name__)

SOLVERS = {
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


def solve(
    cost: Float[Tensor, "batch n m"],
    a: Float[Tensor, "batch n"],
    b: Float[Tensor, "batch m"],
    init: Float[Tensor, "batch m"] | None,
    epsilon: float,
    tol: float,
    max_iter: int,
    rho_a: float | None,
    rho_b: float | None,
    gradient: str,
    method: str,
) -> tuple[Solution, Tensor, str]:
    """Solve a batch whose options and shapes have been checked; log a warning of what falls short.

    The arguments are those of `sinkhorn`, the cost in float32 or float64.

    Returns:
        The solution, of which only the plan may carry a gradient (an unrolled one); the (batch,)
        values, without gradient; the name of the method.

    Raises:
        ValueError: on masses out of range, or a method that is not available here.
    """
    a, b = a.detach().to(cost.dtype), b.detach().to(cost.dtype)
    totals = a.sum(1), b.sum(1)
    check_masses(a, b, totals, balanced=rho_a is None and rho_b is None)
    start = torch.zeros_like(b)
    if init is not None:
        start = init.detach().to(cost.dtype).masked_fill(b <= 0, 0.0)
    taus = tau(rho_a, epsilon), tau(rho_b, epsilon)
    problem = Problem(cost.detach(), a, b, start, epsilon, *taus, tol, max_iter)
    name = _choose_method(method, gradient, cost)
    if cost.numel() == 0:
        name = "reference"  # there is nothing to solve
    unrolled = gradient == "unrolled" and torch.is_grad_enabled()
    with torch.set_grad_enabled(unrolled):
        solution = SOLVERS[name](replace(problem, cost=cost) if unrolled else problem)
    if name != "compiled":  # which sees to it itself
        solution = _finished(problem, solution)
    short = ~(solution.error <= tol)
    if bool(short.any()):
        if method == "auto" and gradient != "unrolled" and _can_rescue(problem):
            _rescue(problem, solution, short.nonzero().flatten())
            name = f"{name}+newton"
        if not bool((solution.error <= tol).all()):
            logger.warning(explain(problem, solution, totals, name, gradient))
    solution = replace(solution, f=solution.f.detach(), g=solution.g.detach())
    value = _value(problem, solution, totals[0] * totals[1], rho_a, rho_b)
    return solution, value, name


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
