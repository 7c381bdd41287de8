"""Sinkhorn's algorithm as docs/theory.md states it: the solver to read, and to test others by."""

import math

import torch
from torch import Tensor

from otreg.transport.problem import Problem, Solution


def solve_reference(problem: Problem) -> Solution:
    """Alternate the two updates in the log domain, until the columns are right.

    The marks (S1) to (S5) are those of the equations in docs/theory.md. Nothing is done for speed:
    at small epsilon the other solvers need a tenth of the sweeps.

    Source: Cuturi 2013 (arXiv 1306.0895); with relaxed marginals: Chizat et al. 2018 (arXiv
        1607.05816).
    """
    a, b, epsilon = problem.a, problem.b, problem.epsilon
    real = problem.real()
    cost = torch.where(real, problem.cost, math.inf)  # padding sends and receives nothing
    has_column, has_row = real.any(2), real.any(1)
    mass = a.sum(1).clamp(min=torch.finfo(a.dtype).tiny)

    def column_minimum(f: Tensor) -> Tensor:  # (S2), (batch, m)
        exponent = (f.unsqueeze(2) - cost) / epsilon + a.log().unsqueeze(2)
        return torch.where(has_row, -epsilon * torch.logsumexp(exponent, 1), 0.0)

    def row_minimum(g: Tensor) -> Tensor:  # (S2), (batch, n)
        exponent = (g.unsqueeze(1) - cost) / epsilon + b.log().unsqueeze(1)
        return torch.where(has_column, -epsilon * torch.logsumexp(exponent, 2), 0.0)

    num_iters = torch.zeros(len(cost), dtype=torch.long, device=cost.device)
    g = problem.g
    f = problem.tau_a * row_minimum(g)
    while True:
        soft = column_minimum(f)
        columns = torch.where(has_row, b * ((g - soft) / epsilon).exp(), 0.0)
        wanted = b
        if problem.tau_b != 1:
            wanted = torch.where(has_row, b * ((problem.tau_b - 1) * soft / epsilon).exp(), 0.0)
        error = (wanted - columns).abs().sum(1) / mass  # (S5)
        active = ~(error <= problem.tol) & (num_iters < problem.max_iter)
        if not bool(active.any()):
            break
        moving = active.unsqueeze(1)  # a problem that is solved stays as it is
        g = torch.where(moving, problem.tau_b * soft, g)  # (S3)
        f = torch.where(moving, problem.tau_a * row_minimum(g), f)  # (S4)
        num_iters = num_iters + active
    exponent = (f.unsqueeze(2) + g.unsqueeze(1) - cost) / epsilon
    plan = a.unsqueeze(2) * b.unsqueeze(1) * exponent.exp()  # (S1)
    return Solution.of_plan(f, g, torch.where(real, plan, 0.0), num_iters, error)
