"""Why a transport problem did not converge, and what helps: the text of the solver's warning."""

import math

import torch
from torch import Tensor

from otreg.transport.problem import Problem, Solution

_SMALL_SHARE = 0.01  # epsilon as a share of the range of the costs; below it sweeps converge slowly
_FLOAT32_TOL = 1e-6  # marginal errors below this are lost in the rounding of float32


def explain(
    problem: Problem,
    solution: Solution,
    totals: tuple[Tensor, Tensor],
    method: str,
    gradient: str,
) -> str:
    """Say how many problems fell short, the reason that the worst of them shows, and the remedy.

    Args:
        problem: what was to be solved.
        solution: what was found; at least one error is above the problem's tol.
        totals: (batch,) each, the sums of the masses a and b.
        method: the solver that was used, as in `TransportResult`.
        gradient: the gradient that was asked for.

    Returns:
        One sentence or two for the log.
    """
    error = solution.error.double().nan_to_num(math.inf)
    short = error > problem.tol
    worst = int(error.argmax())
    return (
        f"sinkhorn: {int(short.sum())} of {len(error)} problems did not reach a marginal error of "
        f"{problem.tol:g} (largest error {float(error[worst]):.2e}, most sweeps "
        f"{int(solution.num_iters.max())} of method {method!r}): "
        f"{_reason(problem, worst, float(error[worst]), totals, method, gradient)}"
    )


def _reason(
    problem: Problem,
    k: int,
    error: float,
    totals: tuple[Tensor, Tensor],
    method: str,
    gradient: str,
) -> str:
    real = problem.real()[k]
    cost = problem.cost[k]
    if bool((real & cost.isnan()).any()):
        return f"the cost of problem {k} holds NaN; look for it in what the cost is made of"
    open_cells = real & (cost < math.inf)
    balanced_a, balanced_b = problem.tau_a == 1, problem.tau_b == 1
    blocked_rows = (problem.a[k] > 0) & ~open_cells.any(1)
    blocked_columns = (problem.b[k] > 0) & ~open_cells.any(0)
    for balanced, blocked, name in (
        (balanced_a, blocked_rows, "row"),
        (balanced_b, blocked_columns, "column"),
    ):
        if balanced and bool(blocked.any()):
            return (
                f"{int(blocked.sum())} {name}(s) of problem {k} have mass and no finite cost to any "
                "mass on the other side; leave them out (mass 0) or relax that side with rho"
            )
    if problem.cost.dtype == torch.float32 and problem.tol < _FLOAT32_TOL and error < 1e-3:
        return (
            "float32 cannot tell such small errors from its own rounding; pass the cost and the "
            f"masses in float64, or a tol of {_FLOAT32_TOL:g} or more"
        )
    total_a, total_b = (float(total[k].double()) for total in totals)
    apart = abs(total_a - total_b) / max(total_a, 1e-300)
    if balanced_a and balanced_b and apart > problem.tol:
        return (
            f"the masses of a and b sum to totals that differ by {apart:.1e} of the mass in problem "
            f"{k}, and no plan can do better; divide both by their sums in {problem.a.dtype}, or "
            "raise tol"
        )
    costs = cost[open_cells]
    spread = float(costs.max() - costs.min()) if costs.numel() else 0.0
    remedy = "raise max_iter, epsilon or tol"
    if gradient == "unrolled":
        remedy += ", or pass gradient='implicit'"
    elif "newton" not in method:
        remedy += ", or pass method='newton'"
    if problem.epsilon >= _SMALL_SHARE * spread:
        return remedy
    return f"epsilon is {problem.epsilon / spread:.1e} of the range of its costs; {remedy}"
