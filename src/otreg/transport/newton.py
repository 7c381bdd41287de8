"""Newton's method on the semi-dual, in float64: for tiny epsilon, and as the exact answer in tests."""

import math

import torch
from torch import Tensor

from otreg.transport.cholesky import solve_positive
from otreg.transport.problem import Problem, Solution

_LEVEL = 2.0  # how much epsilon shrinks from one level to the next
_FIRST_SHARE = 0.1  # the first level's epsilon, as a share of the range of the costs
_LEVEL_TOL = 0.02  # marginal error at which a level is left
_HALVINGS = 6  # of a Newton step, before the sweep that stands before it must do
_DAMPING = 0.1  # of the system, times the marginal error
_MAX_STEP = 8.0  # the furthest that a potential goes at once, in units of epsilon,
_DOUBLINGS = 30  # and how often that is doubled for as long as the dual climbs
_ARMIJO = 1e-4
_RIDGE = 1e-12


def solve_newton(problem: Problem) -> Solution:
    """Maximise the concave semi-dual D(g), in which f is the rows' exact answer to g.

    dD/dg   = b exp(-g/rho_b) - c,                   c = P' 1   (b - c where balanced)
    d2D/dg2 = -(diag(c) - tau_a P' diag(1/r) P)/epsilon - diag(b exp(-g/rho_b))/rho_b

    A step is a Sinkhorn sweep of g, then Newton's direction: one m x m system, and Armijo's rule
    along it. Where no size is good, the sweep alone stands. A balanced problem without a start is
    first solved at a tenth of the costs' range in place of epsilon, then at half of that, and so on:
    each level starts from the last one's g. Float64 inside; a step costs n m^2 + m^3.

    Source: Newton on the semi-dual of entropic transport: Cuturi and Peyre 2018 (arXiv 1805.02016),
        section 5; Brauer et al. 2017 (arXiv 1710.06635). The levels and the longer steps are ours.
    """
    dtype, epsilon = problem.cost.dtype, problem.epsilon
    dual = _SemiDual(problem.double())
    highest = torch.where(dual.real, dual.cost, -math.inf).amax((1, 2))
    spread = highest - torch.where(dual.real, dual.cost, math.inf).amin((1, 2))
    level = torch.clamp(_FIRST_SHARE * spread, min=epsilon)  # an empty problem's spread is -inf
    if problem.tau_a != 1 or problem.tau_b != 1:  # rho holds at one epsilon only
        level = torch.full_like(level, epsilon)
    level[(problem.g != 0).any(1)] = epsilon  # a warm start is close already
    g = problem.g.double()
    num_iters = torch.zeros(len(g), dtype=torch.long, device=g.device)
    mass = dual.a.sum(1).clamp(min=1e-300)
    if problem.tau_b == 0:
        g = torch.zeros_like(g)
    _, f, plan, _ = dual.at(g, level)
    while True:
        error = dual.error(plan, g, level) / mass
        last = level <= epsilon
        active = torch.where(last, error > problem.tol, ~error.isnan())  # NaN will not go away
        active = active & (num_iters < problem.max_iter)
        if not bool(active.any()):
            break
        deeper = active & ~last & (error <= _LEVEL_TOL)
        if bool(deeper.any()):
            level = torch.where(deeper, (level / _LEVEL).clamp(min=epsilon), level)
            _, f, plan, _ = dual.at(g, level)
            continue
        g, _, f, plan, _ = _step(dual, g, plan, level, active)
        num_iters = num_iters + active
    f, g, plan, error = (x.to(dtype) for x in (f, g, plan, error))
    return Solution.of_plan(f, g, plan, num_iters, error)


class _SemiDual:
    def __init__(self, problem: Problem) -> None:
        self.real = problem.real()
        self.cost = torch.where(self.real, problem.cost, 0.0)
        self.a, self.b = a, b = problem.a, problem.b
        self.tau_a, self.tau_b = problem.tau_a, problem.tau_b
        self.log_a = torch.where(a > 0, a, 1.0).log()
        self.log_b = torch.where(b > 0, b, 1.0).log()

    def at(self, g: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """D(g), f(g), the plan, and b exp(-g / rho_b)."""
        eps = epsilon.unsqueeze(1)
        inside = (self.log_b + g / eps).unsqueeze(1) - self.cost / eps.unsqueeze(2)
        inside = torch.where(self.real, inside, -math.inf)
        highest = inside.amax(2, keepdim=True).clamp(min=-1e300)
        weights = (inside - highest).exp()
        total = weights.sum(2, keepdim=True)
        soft = -(highest + total.clamp(min=1e-300).log()).squeeze(2) * eps  # T'(g)
        f = torch.where(self.a > 0, self.tau_a * soft, 0.0)
        row = torch.where(self.a > 0, self.a * ((f - soft) / eps).exp(), 0.0)  # the plan's rows
        plan = row.unsqueeze(2) * weights / total.clamp(min=1e-300)
        rows = row.sum(1)
        if self.tau_a == 1:
            value = (self.a * f).sum(1)
        else:  # rho_a (|a| - sum a exp(-f / rho_a)), rho_a = eps tau_a / (1 - tau_a)
            value = torch.zeros_like(rows)
            if self.tau_a > 0:
                rho = eps * self.tau_a / (1 - self.tau_a)
                value = -(rho * self.a * torch.expm1(-f / rho)).sum(1)
        value = value - epsilon * rows
        if self.tau_b == 1:
            return value + (self.b * g).sum(1), f, plan, self.b
        if self.tau_b == 0:
            return value, f, plan, plan.sum(1)
        rho = eps * self.tau_b / (1 - self.tau_b)
        ahead = self.b * (-g / rho).exp()
        return value + (rho * (self.b - ahead)).sum(1), f, plan, ahead

    def error(self, plan: Tensor, g: Tensor, epsilon: Tensor) -> Tensor:
        """L1 distance of the columns from b, or from their next update where they are relaxed."""
        columns = plan.sum(1)
        if self.tau_b == 1:
            return (columns - self.b).abs().sum(1)
        change = self.sweep(plan, g, epsilon) / epsilon.unsqueeze(1)
        return (columns * torch.expm1(change.clamp(max=35.0))).abs().sum(1)

    def sweep(self, plan: Tensor, g: Tensor, epsilon: Tensor) -> Tensor:
        """The change of g that a Sinkhorn sweep makes: tau_b T(f) - g."""
        eps = epsilon.unsqueeze(1)
        log_columns = plan.sum(1).clamp(min=1e-290).log()
        soft = g + eps * (self.log_b - log_columns)  # T(f)
        return torch.where(self.b > 0, self.tau_b * soft - g, 0.0)


def _step(
    dual: _SemiDual,
    g: Tensor,
    plan: Tensor,
    epsilon: Tensor,
    active: Tensor,
) -> list[Tensor]:
    """One damped Newton step of the active problems, or a sweep where it does not climb."""
    eps = epsilon.unsqueeze(1)
    g = torch.where(active.unsqueeze(1), g + dual.sweep(plan, g, epsilon), g)  # c comes near b
    value, f, plan, ahead = dual.at(g, epsilon)
    rows, columns = plan.sum(2), plan.sum(1)
    gradient = ahead - columns
    half = plan * rows.clamp(min=1e-300).rsqrt().unsqueeze(2)
    system = torch.diag_embed(columns) - dual.tau_a * torch.bmm(half.transpose(1, 2), half)
    if dual.tau_b < 1:
        rho = eps * dual.tau_b / (1 - dual.tau_b)
        system = system + torch.diag_embed(eps * ahead / rho)
    # Scaled by the square roots of the masses, which makes the diagonal about 1; padding is 1.
    scale = torch.where(dual.b > 0, torch.maximum(columns, 1e-3 * dual.b), 1.0).rsqrt()
    system = system * scale.unsqueeze(2) * scale.unsqueeze(1)
    eye = torch.eye(len(g[0]), dtype=g.dtype, device=g.device)
    padding = torch.where(dual.b > 0, 0.0, 1.0)
    error = dual.error(plan, g, epsilon) / dual.a.sum(1).clamp(min=1e-300)
    ridge = _DAMPING * error + _RIDGE  # fades as the answer comes near: convergence stays quadratic
    system = system + ridge[:, None, None] * eye + torch.diag_embed(padding)
    if dual.tau_a == 1 and dual.tau_b == 1:  # adding a constant to g changes no plan
        null = torch.where(dual.b > 0, 1 / scale, 0.0)
        null = null / null.norm(dim=1, keepdim=True).clamp(min=1e-300)
        system = system + null.unsqueeze(2) * null.unsqueeze(1)
    direction = eps * solve_positive(system, gradient * scale) * scale
    direction = torch.where(torch.isfinite(direction) & (dual.b > 0), direction, 0.0)
    furthest = direction.abs().amax(1, keepdim=True) / eps
    direction = direction * (_MAX_STEP / furthest.clamp(min=_MAX_STEP))
    slope = (gradient * direction).sum(1)

    best = [g, value, f, plan, ahead]
    waiting = active.clone()
    size = torch.ones_like(value)
    floor = 1e-13 * value.abs() + 1e-300  # what rounding hides
    for _ in range(_HALVINGS):
        trial = g + size.unsqueeze(1) * direction
        result = [trial, *dual.at(trial, epsilon)]
        climbed = result[1] >= value + _ARMIJO * size * slope - floor
        good = waiting & (slope > 0) & climbed
        best = [_choose(good, new, old) for new, old in zip(result, best, strict=True)]
        waiting = waiting & ~good
        if not bool(waiting.any()):
            break
        size = size / 2
    short = furthest.squeeze(1) > _MAX_STEP  # than Newton's step
    return _lengthened(dual, direction, epsilon, best, active & ~waiting & short & (size == 1))


def _lengthened(
    dual: _SemiDual, direction: Tensor, epsilon: Tensor, best: list[Tensor], growing: Tensor
) -> list[Tensor]:
    """Go on along the direction in steps that double, while the dual climbs.

    Where a plan nearly falls apart into blocks, their potentials are far from each other: steps of
    one length would take hundreds.
    """
    size = 1.0
    for _ in range(_DOUBLINGS):
        if not bool(growing.any()):
            break
        trial = best[0] + size * direction
        result = [trial, *dual.at(trial, epsilon)]
        growing = growing & (result[1] > best[1])
        best = [_choose(growing, new, old) for new, old in zip(result, best, strict=True)]
        size = 2 * size
    return best


def _choose(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(mask.view(-1, *[1] * (new.ndim - 1)), new, old)
