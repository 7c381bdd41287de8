"""From vectors to a transport loss: cosine cost, solver and gradient as one autograd function."""

# ruff: noqa: F722
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from otreg.shapes import Float
from otreg.transport.checks import check_options, check_vectors
from otreg.transport.cost import cosine_cost, inverse_norm
from otreg.transport.implicit import plan_vjp
from otreg.transport.problem import tau
from otreg.transport.ragged import ragged_sizes
from otreg.transport.sinkhorn import TransportResult, sinkhorn

_Sizes = list[tuple[int, int]]
_MIN_PRODUCT = 2**20  # n m dim of a problem; multiplying smaller ones one by one does not pay


@dataclass(frozen=True)
class CosineTransport:
    """A batch of solved transport problems between vectors, with gradients to the vectors.

    Args:
        cost: (batch,) <P, C>, C = 1 - cos, without the prior.
        value: (batch,) the minimum itself, prior and regularisation included; its gradient is exact
            with the plan held fixed (the envelope theorem).
        plan: (batch, n, m) the transport plan; carries a gradient unless that is "envelope".
        result: all that the solver says, without gradient.
    """

    cost: Tensor
    value: Tensor
    plan: Tensor
    result: TransportResult


def cosine_transport(
    x: Float[Tensor, "batch n dim"],
    y: Float[Tensor, "batch m dim"],
    a: Float[Tensor, "batch n"],
    b: Float[Tensor, "batch m"],
    *,
    epsilon: float,
    prior: Float[Tensor, "batch n m"] | None = None,
    tol: float = 1e-3,
    max_iter: int = 1000,
    rho_a: float | None = None,
    rho_b: float | None = None,
    gradient: str = "envelope",
    init: Float[Tensor, "batch m"] | None = None,
    method: str = "auto",
) -> CosineTransport:
    """Transport x to y at the cost 1 - cos(x_i, y_j) + prior_ij; see `sinkhorn` for the problem.

    It is `sinkhorn(cosine_cost(x, y) + prior, …)` in less time and memory: the n x m product is
    scaled in place of x and y. With W the gradient at the cost, the backward pass is

        dL/dx_i = (|x_i|^2 + 1e-6)^(-1) (sum_j W_ij cos_ij) x_i - sum_j W_ij y_j / (|x_i| |y_j|)

    It takes one matrix product and no normalised copy of x.

    Args:
        x: (batch, n, dim) vectors of any floating dtype; products accumulate in float32.
        y: (batch, m, dim) vectors.
        a: (batch, n) row masses >= 0; a zero mass is padding, whose vectors may hold anything.
        b: (batch, m) column masses >= 0.
        epsilon: entropic regularisation > 0, in units of the cost.
        prior: (batch, n, m) what is added to the cost, without gradient; None = nothing.
        tol: the marginal error at which a problem stops.
        max_iter: the most sweeps.
        rho_a: strength of the KL penalty on the rows; None = balanced.
        rho_b: the same for the columns.
        gradient: what the gradient of `cost` and `plan` knows of the plan: "envelope" = it is held
            fixed; "implicit" = it is the exact optimum; "unrolled" = the iterations that made it.
        init: (batch, m) column potentials to start from; None = 0.
        method: the solver, as in `sinkhorn`.

    Returns:
        CosineTransport in float32; float64 where x or y is.

    Raises:
        ValueError: as `sinkhorn` does.

    Source: the gradient of a cosine; the fused form is ours.

    Example:
        >>> x, y = torch.randn(1, 9, 4, requires_grad=True), torch.randn(1, 3, 4)
        >>> a, b = torch.full((1, 9), 1 / 9), torch.full((1, 3), 1 / 3)
        >>> cosine_transport(x, y, a, b, epsilon=0.05).cost.sum().backward()
        >>> x.grad.shape
        torch.Size([1, 9, 4])
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
    check_vectors(x, y, a, b, prior, init)
    options: dict[str, Any] = {
        "epsilon": epsilon,
        "tol": tol,
        "max_iter": max_iter,
        "rho_a": rho_a,
        "rho_b": rho_b,
        "init": init,
        "method": method,
    }
    if torch.compiler.is_compiling():
        return _of_parts(x, y, a, b, prior, gradient, options)
    if not torch.is_grad_enabled():
        x, y = x.detach(), y.detach()  # then nothing is kept for a backward pass
    with torch.autocast(device_type=x.device.type, enabled=False):
        cost, value, plan, result = _CosineTransport.apply(x, y, a, b, prior, gradient, options)
    if gradient == "envelope":
        plan = plan.detach()
    return CosineTransport(cost, value, plan, result)


def _of_parts(
    x: Tensor,
    y: Tensor,
    a: Tensor,
    b: Tensor,
    prior: Tensor | None,
    gradient: str,
    options: dict[str, Any],
) -> CosineTransport:
    """The same of separate parts, for torch.compile, which fuses them by itself."""
    x = torch.where((a > 0).unsqueeze(2), x, 0.0)
    y = torch.where((b > 0).unsqueeze(2), y, 0.0)
    costs = cosine_cost(x, y)
    all_costs = costs if prior is None else costs + prior.detach().to(costs.dtype)
    result = sinkhorn(all_costs, a, b, gradient=gradient, **options)
    plan, value = result.plan, result.value
    cost = (plan * costs).sum((1, 2))
    return CosineTransport(cost, value, plan, _without_gradient(result, plan.detach()))


class _CosineTransport(torch.autograd.Function):
    """<P, C>, the minimum and the plan, as functions of x and y."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        a: Tensor,
        b: Tensor,
        prior: Tensor | None,
        gradient: str,
        options: dict[str, Any],
    ) -> tuple[Tensor, Tensor, Tensor, TransportResult]:
        """Solve, and keep what the backward pass needs; the costs only for some gradients."""
        dtype = torch.float64 if torch.float64 in (x.dtype, y.dtype) else torch.float32
        real_x, real_y = a > 0, b > 0
        # Elsewhere than on the CPU, looking for padding costs more than masking it.
        padded = x.device.type != "cpu" or not (bool(real_x.all()) and bool(real_y.all()))
        sizes = _sizes_of(a, b, x.shape[2]) if padded else None
        inv_x, inv_y = inverse_norm(x, dtype), inverse_norm(y, dtype)
        # 1 - x y' / (|x| |y|), in the memory of the product
        product = _products(x, y, dtype, sizes).mul_(inv_y.unsqueeze(1))
        one = product.new_ones(())
        costs = torch.addcmul(one, product, inv_x.unsqueeze(2), value=-1, out=product)
        if padded:
            costs.masked_fill_((real_x.unsqueeze(2) & real_y.unsqueeze(1)).logical_not_(), 1.0)
        all_costs = costs if prior is None else costs + prior.to(dtype)
        ctx.unrolled = None
        if gradient == "unrolled":
            with torch.enable_grad():
                leaf = all_costs.detach().requires_grad_()
                result = sinkhorn(leaf, a, b, gradient="unrolled", **options)
            ctx.unrolled = (leaf, result.plan)
        else:
            result = sinkhorn(all_costs, a, b, **options)
        plan = result.plan.detach()
        result = _without_gradient(result, plan)
        keeps_costs = gradient != "envelope" or ctx.needs_input_grad[1]
        cost_of_rows = (plan * costs if keeps_costs else costs.mul_(plan)).sum(2)  # (batch, n)
        if any(ctx.needs_input_grad):
            if padded:
                inv_x, inv_y = torch.where(real_x, inv_x, 0.0), torch.where(real_y, inv_y, 0.0)
            cos_of_rows = plan.sum(2) - cost_of_rows
            kept = costs if keeps_costs else None
            ctx.save_for_backward(x, y, a, b, inv_x, inv_y, plan, cos_of_rows, kept)
        epsilon = options["epsilon"]
        ctx.taus = (tau(options["rho_a"], epsilon), tau(options["rho_b"], epsilon))
        ctx.settings = (gradient, epsilon, sizes, padded)
        ctx.set_materialize_grads(False)
        return cost_of_rows.sum(1), result.value.clone(), plan.clone(), result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any,
        grad_cost: Tensor | None,
        grad_value: Tensor | None,
        grad_plan: Tensor | None,
        _: None,
    ) -> tuple[Tensor | None, Tensor | None, None, None, None, None, None]:
        """Collect W, the gradient at the cost, and take it to x and y."""
        x, y, a, b, inv_x, inv_y, plan, cos_of_rows, costs = ctx.saved_tensors
        gradient, epsilon, sizes, padded = ctx.settings
        weight = plan.new_zeros(len(plan), 1)
        for grad in (grad_cost, grad_value):
            if grad is not None:
                weight = weight + grad.unsqueeze(1)
        if costs is None:  # W is the plan times a weight per problem; only x wants a gradient
            scale = -weight * inv_x
            w = (plan * scale.unsqueeze(2)).mul_(inv_y.unsqueeze(1))
            own = weight * cos_of_rows * inv_x.square()
            return _pull(w, y, b, x, a, own, sizes, padded), None, None, None, None, None, None
        w = weight.unsqueeze(2) * plan
        if gradient != "envelope" and not (grad_cost is None and grad_plan is None):
            at_plan = torch.zeros_like(plan) if grad_plan is None else grad_plan
            if grad_cost is not None:
                at_plan = at_plan + grad_cost[:, None, None] * costs
            if gradient == "implicit":
                w = w + plan_vjp(at_plan, plan, epsilon, *ctx.taus)
            else:
                leaf, unrolled = ctx.unrolled
                w = w + torch.autograd.grad(unrolled, leaf, at_plan, retain_graph=True)[0]
        shares = w * (1.0 - costs)
        w = w.mul_(inv_x.unsqueeze(2)).mul_(inv_y.unsqueeze(1)).neg_()
        sides: list[Tensor | None] = [None, None]
        if ctx.needs_input_grad[0]:
            own = shares.sum(2) * inv_x.square()
            sides[0] = _pull(w, y, b, x, a, own, sizes, padded)
        if ctx.needs_input_grad[1]:
            own = shares.sum(1) * inv_y.square()
            turned = None if sizes is None else [(m, n) for n, m in sizes]
            sides[1] = _pull(w.transpose(1, 2), x, a, y, b, own, turned, padded)
        return sides[0], sides[1], None, None, None, None, None


def _pull(
    w: Tensor,
    other: Tensor,
    other_mass: Tensor,
    x: Tensor,
    mass: Tensor,
    own: Tensor,
    sizes: _Sizes | None,
    padded: bool,
) -> Tensor:
    """W other + own x, in the dtype of x; 0 at padding, whatever stands there."""
    if padded:
        other = torch.where((other_mass > 0).unsqueeze(2), other, 0.0)
    grad = _weighted_sums(w, other, sizes)
    if x.dtype == grad.dtype:
        grad.addcmul_(own.unsqueeze(2), x)
    else:
        for k in range(len(x)):  # no copy of the whole of x in another dtype
            grad[k].addcmul_(own[k].unsqueeze(1), x[k].to(grad.dtype))
        grad = grad.to(x.dtype)
    return grad.masked_fill_((mass <= 0).unsqueeze(2), 0.0) if padded else grad


def _products(x: Tensor, y: Tensor, dtype: torch.dtype, sizes: _Sizes | None) -> Tensor:
    """x y', (batch, n, m), accumulated and returned in dtype; with sizes, 0 past them."""
    if sizes is None:
        if x.dtype == y.dtype == dtype:
            return torch.bmm(x, y.transpose(1, 2))
        if x.dtype == y.dtype and x.device.type == "cuda" and dtype == torch.float32:
            return torch.bmm(x, y.transpose(1, 2), out_dtype=dtype)
    batch, n, m = len(x), x.shape[1], y.shape[1]
    products = torch.zeros(batch, n, m, dtype=dtype, device=x.device)
    for k in range(batch):  # one at a time: no copy of the whole of x in another dtype
        rows, columns = (n, m) if sizes is None else sizes[k]
        products[k, :rows, :columns] = x[k, :rows].to(dtype) @ y[k, :columns].to(dtype).T
    return products


def _weighted_sums(w: Tensor, y: Tensor, sizes: _Sizes | None) -> Tensor:
    """W y, (batch, n, dim), in the dtype of W; with sizes, 0 past them."""
    if sizes is None:
        return torch.bmm(w, y.to(w.dtype))
    sums = torch.zeros(len(w), w.shape[1], y.shape[2], dtype=w.dtype, device=w.device)
    for k, (rows, columns) in enumerate(sizes):
        torch.mm(w[k, :rows, :columns], y[k, :columns].to(w.dtype), out=sums[k, :rows])
    return sums


def _sizes_of(a: Tensor, b: Tensor, dim: int) -> _Sizes | None:
    """What is real of each problem; None where multiplying all of it at once is quicker."""
    if a.shape[1] * b.shape[1] * dim < _MIN_PRODUCT:
        return None
    sizes = ragged_sizes(a, b)
    return None if sizes is None else list(zip(*(size.tolist() for size in sizes), strict=True))


def _without_gradient(result: TransportResult, plan: Tensor) -> TransportResult:
    return replace(result, plan=plan, value=result.value.detach())
