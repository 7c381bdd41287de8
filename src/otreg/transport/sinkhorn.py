"""Entropic optimal transport on padded batches: the interface to every solver."""

# ruff: noqa: F722
from dataclasses import dataclass

import torch
from torch import Tensor

from otreg.shapes import Float
from otreg.transport.checks import METHODS, check_options, check_problem
from otreg.transport.graph import sinkhorn_in_graph
from otreg.transport.implicit import ImplicitPlan, ValueOfCost
from otreg.transport.problem import tau
from otreg.transport.solve import solve

__all__ = ["METHODS", "TransportResult", "check_options", "sinkhorn"]


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
        cost = cost.to(dtype)
        if torch.compiler.is_compiling():
            found = sinkhorn_in_graph(
                cost, a, b, init, epsilon, tol, max_iter, rho_a, rho_b, gradient, method
            )
            return TransportResult(*found, converged=found[-1] <= tol, method=method)
        solution, value, name = solve(
            cost, a, b, init, epsilon, tol, max_iter, rho_a, rho_b, gradient, method
        )
        plan = solution.plan
        if cost.requires_grad:
            value = ValueOfCost.apply(cost, plan.detach(), value)
            if gradient == "implicit":
                taus = tau(rho_a, epsilon), tau(rho_b, epsilon)
                plan = ImplicitPlan.apply(cost, plan, epsilon, *taus)
    num_iters, error = solution.num_iters, solution.error
    return TransportResult(
        plan, value, solution.f, solution.g, num_iters, error, error <= tol, name
    )
