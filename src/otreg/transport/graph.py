"""`sinkhorn` as one operation of a graph: what torch.compile sees of it.

A compiler that traced the solvers would unroll their loops. It is given an operation instead, of
which it knows the shapes and the gradient.
"""

from typing import Any

import torch
from torch import Tensor

from otreg.transport.implicit import plan_vjp
from otreg.transport.problem import tau
from otreg.transport.solve import solve

_Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def sinkhorn_in_graph(
    cost: Tensor,
    a: Tensor,
    b: Tensor,
    init: Tensor | None,
    epsilon: float,
    tol: float,
    max_iter: int,
    rho_a: float | None,
    rho_b: float | None,
    gradient: str,
    method: str,
) -> _Outputs:
    """Plan, value, f, g, num_iters and marginal error, with the gradients that `sinkhorn` gives them.

    Raises:
        ValueError: for an unrolled gradient, which is that of a loop.
    """
    if gradient == "unrolled":
        raise ValueError(
            "gradient 'unrolled' cannot be part of a compiled graph; pass gradient='implicit', or "
            "leave the loss out of torch.compile"
        )
    plan, *rest = _sinkhorn(
        cost, a, b, init, epsilon, tol, max_iter, rho_a, rho_b, gradient, method
    )
    return (plan.detach() if gradient == "envelope" else plan, *rest)


@torch.library.custom_op("otreg::sinkhorn", mutates_args=())
def _sinkhorn(
    cost: Tensor,
    a: Tensor,
    b: Tensor,
    init: Tensor | None,
    epsilon: float,
    tol: float,
    max_iter: int,
    rho_a: float | None,
    rho_b: float | None,
    gradient: str,
    method: str,
) -> _Outputs:
    found, value, _ = solve(
        cost, a, b, init, epsilon, tol, max_iter, rho_a, rho_b, gradient, method
    )
    return found.plan, value, found.f, found.g, found.num_iters, found.error


@_sinkhorn.register_fake
def _shapes(cost: Tensor, a: Tensor, b: Tensor, *options: object) -> _Outputs:
    batch, n, m = cost.shape
    num_iters = cost.new_empty(batch, dtype=torch.long)
    value, error = cost.new_empty(batch), cost.new_empty(batch)
    f, g = cost.new_empty(batch, n), cost.new_empty(batch, m)
    return cost.new_empty(batch, n, m), value, f, g, num_iters, error


def _keep(ctx: Any, inputs: tuple, output: _Outputs) -> None:
    epsilon, _, _, rho_a, rho_b, gradient, _ = inputs[4:]
    ctx.save_for_backward(output[0])
    ctx.settings = (gradient, epsilon, tau(rho_a, epsilon), tau(rho_b, epsilon))


def _gradient(
    ctx: Any, at_plan: Tensor | None, at_value: Tensor | None, *_: Tensor | None
) -> tuple:
    (plan,) = ctx.saved_tensors
    gradient, *settings = ctx.settings
    at_cost = torch.zeros_like(plan) if at_value is None else at_value[:, None, None] * plan
    if gradient == "implicit" and at_plan is not None:
        at_cost = at_cost + plan_vjp(at_plan, plan, *settings)
    return at_cost, *[None] * 10


_sinkhorn.register_autograd(_gradient, setup_context=_keep)
