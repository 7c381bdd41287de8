"""The exact derivatives of a transport problem's value and plan with respect to its cost."""

# ruff: noqa: F722
from typing import Any

import torch
from torch import Tensor

from otreg.shapes import Float
from otreg.transport.cholesky import solve_positive

_RIDGE = 1e-9


def plan_vjp(
    grad_plan: Float[Tensor, "batch n m"],
    plan: Float[Tensor, "batch n m"],
    epsilon: float,
    tau_a: float,
    tau_b: float,
) -> Float[Tensor, "batch n m"]:
    """Pull a gradient at the plan P back to the cost C.

    With r, c the row and column sums of P and W = G * P / epsilon (G the gradient at P), the
    optimality conditions of the plan give

        dL/dC = P_ij (x_i + y_j) - W_ij
        x = tau_a (W 1 - P y) / r
        (I - tau_b N) z = tau_b c^(-1/2) (W' 1 - P' (tau_a W 1 / r)),   y = c^(-1/2) z
        N = c^(-1/2) P' (tau_a / r) P c^(-1/2)

    one m x m system per problem. With both sides balanced it is singular along c^(1/2): adding a
    constant to g and taking it from f changes no plan. A small ridge makes that direction harmless.

    Args:
        grad_plan: (batch, n, m) gradient of the loss at the plan.
        plan: (batch, n, m) a converged plan; rows and columns of padding are zero.
        epsilon: the entropic regularisation, > 0.
        tau_a: rho_a / (rho_a + epsilon); 1 when rows are balanced.
        tau_b: the same for columns.

    Returns:
        (batch, n, m) gradient of the loss at the cost, in the plan's dtype.

    Source: the implicit function theorem on the Sinkhorn fixed point, reduced by a Schur
        complement; solved in float64 with a ridge of 1e-9, for plans close to a permutation are
        near-singular.
    """
    p, grad = plan.double(), grad_plan.double()
    w = grad * p / epsilon
    r, c = p.sum(2), p.sum(1)
    inv_r = torch.where(r > 0, 1 / r.clamp(min=1e-300), 0.0)
    c_inv_root = torch.where(c > 0, c.clamp(min=1e-300).rsqrt(), 0.0)

    w_rows = tau_a * w.sum(2) * inv_r
    rhs = w.sum(1) - torch.bmm(w_rows.unsqueeze(1), p).squeeze(1)  # (batch, m)
    half = p * inv_r.sqrt().unsqueeze(2) * c_inv_root.unsqueeze(1)
    eye = torch.eye(p.shape[2], dtype=p.dtype, device=p.device)
    system = (1 + _RIDGE) * eye - (tau_a * tau_b) * torch.bmm(half.transpose(1, 2), half)
    y = c_inv_root * solve_positive(system, tau_b * c_inv_root * rhs)
    x = w_rows - tau_a * inv_r * torch.bmm(p, y.unsqueeze(2)).squeeze(2)
    return (p * (x.unsqueeze(2) + y.unsqueeze(1)) - w).to(plan.dtype)


class ImplicitPlan(torch.autograd.Function):
    """The identity on a converged plan, whose backward pass is :func:`plan_vjp`."""

    @staticmethod
    def forward(
        ctx: Any, cost: Tensor, plan: Tensor, epsilon: float, tau_a: float, tau_b: float
    ) -> Tensor:
        """Return the plan; the cost is an argument only to receive its gradient."""
        ctx.save_for_backward(plan)
        ctx.settings = (epsilon, tau_a, tau_b)
        return plan.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_plan: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Pull the gradient at the plan back to the cost."""
        (plan,) = ctx.saved_tensors
        return plan_vjp(grad_plan, plan, *ctx.settings), None, None, None, None


class ValueOfCost(torch.autograd.Function):
    """The identity on a problem's value, whose gradient at the cost is the plan (envelope theorem)."""

    @staticmethod
    def forward(ctx: Any, cost: Tensor, plan: Tensor, value: Tensor) -> Tensor:
        """Return the value; the cost is an argument only to receive its gradient."""
        ctx.save_for_backward(plan)
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_value: Tensor) -> tuple[Tensor, None, None]:
        """Scale the plan by the gradient at the value."""
        (plan,) = ctx.saved_tensors
        return grad_value[:, None, None] * plan, None, None
