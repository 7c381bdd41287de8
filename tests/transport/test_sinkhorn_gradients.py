import pytest
import torch
from torch import Tensor

from otreg import sinkhorn
from otreg.transport import cosine_cost
from otreg.transport.implicit import plan_vjp

RELAXATIONS = [(None, None), (None, 0.3), (0.3, None), (0.2, 0.5), (None, 0.0), (0.0, 0.4)]
TIGHT = {"epsilon": 0.2, "tol": 1e-12, "max_iter": 20_000}


def problem(n: int = 5, m: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    cost = cosine_cost(torch.randn(2, n, 8), torch.randn(2, m, 8)).double()
    a, b = torch.rand(2, n).double() + 0.1, torch.rand(2, m).double() + 0.1
    a, b = a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)
    a[1, -1] += a[1, -2]
    a[1, -2] = 0.0  # padding inside the batch
    return cost.requires_grad_(), a, b


@pytest.mark.parametrize(("rho_a", "rho_b"), RELAXATIONS)
@pytest.mark.parametrize("gradient", ["envelope", "unrolled", "implicit"])
def test_gradient_of_the_value_is_the_plan(
    gradient: str, rho_a: float | None, rho_b: float | None
) -> None:
    cost, a, b = problem()
    options = TIGHT | {"rho_a": rho_a, "rho_b": rho_b, "gradient": gradient}
    result = sinkhorn(cost, a, b, **options)
    (gradient_of_value,) = torch.autograd.grad(result.value.sum(), cost)
    torch.testing.assert_close(gradient_of_value, result.plan.detach())
    step = 1e-5
    for i, j in ((0, 0), (4, 2), (2, 1)):  # finite differences
        bump = torch.zeros_like(cost)
        bump[:, i, j] = step
        up, down = (sinkhorn(cost.detach() + s * bump, a, b, **options).value for s in (1.0, -1.0))
        slope = (up - down) / (2 * step)
        torch.testing.assert_close(slope, result.plan[:, i, j].detach(), atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize(("rho_a", "rho_b"), RELAXATIONS)
@pytest.mark.parametrize("gradient", ["unrolled", "implicit"])
def test_gradient_of_the_plan_is_exact(
    gradient: str, rho_a: float | None, rho_b: float | None
) -> None:
    cost, a, b = problem()

    def plan(cost: Tensor) -> Tensor:
        return sinkhorn(cost, a, b, rho_a=rho_a, rho_b=rho_b, gradient=gradient, **TIGHT).plan

    assert torch.autograd.gradcheck(plan, cost, atol=1e-6)


@pytest.mark.parametrize(("n", "m"), [(30, 12), (8, 20), (6, 1)])
def test_implicit_and_unrolled_gradients_agree(n: int, m: int) -> None:
    cost, a, b = problem(n, m) if n > 2 else problem()
    weight = torch.randn_like(cost)
    gradients = []
    for mode in ("implicit", "unrolled"):
        plan = sinkhorn(cost, a, b, epsilon=0.05, tol=1e-12, max_iter=20_000, gradient=mode).plan
        gradients.append(torch.autograd.grad((plan * weight).sum(), cost)[0])
    torch.testing.assert_close(*gradients, atol=1e-7, rtol=1e-5)


def test_implicit_gradient_of_a_float32_plan_is_close_to_float64s() -> None:
    cost, a, b = problem(30, 12)
    weight = torch.randn_like(cost)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        x = cost.detach().to(dtype).requires_grad_()
        plan = sinkhorn(x, a, b, epsilon=0.05, tol=1e-5, max_iter=5000, gradient="implicit").plan
        gradients.append(torch.autograd.grad((plan * weight).sum(), x)[0].double())
    difference = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    assert float(difference) < 1e-2


def test_implicit_gradient_of_a_near_permutation_is_finite_and_small() -> None:
    cost = (2 - 2 * torch.eye(6)).unsqueeze(0).requires_grad_()
    mass = torch.full((1, 6), 1 / 6)
    plan = sinkhorn(cost, mass, mass, epsilon=0.02, gradient="implicit").plan
    (gradient,) = torch.autograd.grad((plan * torch.randn_like(plan)).sum(), cost)
    assert float(gradient.abs().max()) < 1e-6  # the plan does not move


def test_a_loss_of_the_marginals_alone_has_no_gradient() -> None:
    cost, a, b = problem(30, 12)
    plan = sinkhorn(cost, a, b, epsilon=0.05, tol=1e-12, max_iter=20_000).plan
    of_rows, of_columns = torch.randn(2, 30, 1).double(), torch.randn(2, 1, 12).double()
    gradient = plan_vjp(of_rows + of_columns, plan, 0.05, 1.0, 1.0)
    assert float(gradient.abs().max()) < 1e-8  # the marginals are fixed


def test_envelope_detaches_the_plan() -> None:
    cost, a, b = problem()
    result = sinkhorn(cost, a, b, epsilon=0.1)
    assert not result.plan.requires_grad
    assert result.value.requires_grad


def test_no_mode_builds_a_graph_without_gradients() -> None:
    cost, a, b = problem()
    with torch.no_grad():
        for mode in ("envelope", "unrolled", "implicit"):
            result = sinkhorn(cost, a, b, epsilon=0.1, gradient=mode)
            assert not result.plan.requires_grad
            assert not result.value.requires_grad
