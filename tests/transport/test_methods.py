"""Every fast solver against the reference, and on problems that are hard to get right."""

import pytest
import torch
from test_compiled import needs_compiler
from torch import Tensor

from otreg import sinkhorn
from otreg.transport import cosine_cost
from otreg.transport.problem import Problem
from otreg.transport.solve import SOLVERS

METHODS = ["accelerated", pytest.param("compiled", marks=needs_compiler), "newton"]
RELAXATIONS = [(None, None), (None, 0.3), (0.3, None), (0.2, 0.5), (None, 0.0), (0.0, 0.4)]


def problem(n: int, m: int, dtype: torch.dtype, batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    cost = cosine_cost(torch.randn(batch, n, 8), torch.randn(batch, m, 8)).to(dtype)
    a, b = torch.rand(batch, n, dtype=dtype) + 0.1, torch.rand(batch, m, dtype=dtype) + 0.1
    return cost, a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("rho_a", "rho_b"), RELAXATIONS)
@pytest.mark.parametrize(("n", "m"), [(9, 5), (63, 20), (5, 17), (1, 4), (4, 1), (33, 16)])
def test_it_agrees_with_the_reference(
    method: str, n: int, m: int, rho_a: float | None, rho_b: float | None
) -> None:
    options = {"epsilon": 0.05, "tol": 1e-10, "max_iter": 20_000, "rho_a": rho_a, "rho_b": rho_b}
    arguments = problem(n, m, torch.float64)
    ours = sinkhorn(*arguments, **options, method=method)
    reference = sinkhorn(*arguments, **options, method="reference")
    assert (ours.method, reference.method) == (method, "reference")
    assert bool(ours.converged.all())
    torch.testing.assert_close(ours.plan, reference.plan, atol=1e-9, rtol=1e-6)
    torch.testing.assert_close(ours.value, reference.value, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("epsilon", [0.05, 0.01, 0.002])
@pytest.mark.parametrize(("n", "m"), [(100, 20), (20, 20), (15, 30), (130, 47)])
def test_marginals_hold_in_float32_down_to_small_epsilon(
    method: str, epsilon: float, n: int, m: int
) -> None:
    cost, a, b = problem(n, m, torch.float32)
    result = sinkhorn(cost, a, b, epsilon=epsilon, max_iter=3000, method=method)
    assert bool(result.converged.all())
    plan = result.plan.double()
    error = (plan.sum(1) - b).abs().sum(1) + (plan.sum(2) - a).abs().sum(1)
    assert float(error.max()) < 1.1e-3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fill", [0.0, 1e6, float("nan"), float("inf")])
def test_neither_padding_nor_batch_mates_change_a_problem(method: str, fill: float) -> None:
    cost, a, b = problem(9, 5, torch.float32)
    padded = torch.full((3, 14, 8), fill)
    padded[:, :9, :5] = cost
    a_padded, b_padded = torch.zeros(3, 14), torch.zeros(3, 8)
    a_padded[:, :9], b_padded[:, :5] = a, b
    batch = sinkhorn(padded, a_padded, b_padded, epsilon=0.03, method=method)
    for k in range(3):
        single = sinkhorn(cost[k : k + 1], a[k : k + 1], b[k : k + 1], epsilon=0.03, method=method)
        assert torch.equal(batch.plan[k, :9, :5], single.plan[0])
        assert batch.num_iters[k] == single.num_iters[0]
    assert float(batch.plan[:, 9:].abs().max()) == 0
    assert float(batch.plan[:, :, 5:].abs().max()) == 0


@pytest.mark.parametrize("method", ["reference", *METHODS])
def test_a_solved_problem_is_left_alone_while_others_go_on(method: str) -> None:
    cost, a, b = problem(40, 20, torch.float32)
    cost[0] = 0.5  # solved by the start, and alone: the other two keep the batch together
    result = sinkhorn(cost, a, b, epsilon=0.01, method=method)
    assert bool(result.converged.all())
    assert int(result.num_iters[0]) == 0
    assert int(result.num_iters[1:].min()) > 0
    alone = sinkhorn(cost[:1], a[:1], b[:1], epsilon=0.01, method=method)
    assert torch.equal(result.plan[0], alone.plan[0])
    assert float(result.marginal_error[0]) == float(alone.marginal_error[0])


def test_sweeps_and_newtons_steps_are_counted_together() -> None:
    cost, a, b = problem(40, 20, torch.float64)
    cost *= 1e4
    sweeps = sinkhorn(cost, a, b, epsilon=0.05, max_iter=100, method="accelerated").num_iters
    steps = sinkhorn(cost, a, b, epsilon=0.05, max_iter=100, method="newton").num_iters
    rescued = sinkhorn(cost, a, b, epsilon=0.05, max_iter=100)
    assert rescued.method.endswith("+newton")
    assert bool(rescued.converged.all())
    assert sweeps.tolist() == [100] * 3
    assert bool((steps > 0).all())
    assert rescued.num_iters.tolist() == (sweeps + steps).tolist()


@pytest.mark.parametrize("method", METHODS)
def test_a_warm_start_is_a_problems_own(method: str) -> None:
    cost, a, b = problem(30, 12, torch.float64)
    cold = sinkhorn(cost, a, b, epsilon=0.01, tol=1e-6, max_iter=5000, method=method)
    start = torch.zeros_like(b)
    start[1] = cold.g[1]
    warm = sinkhorn(cost, a, b, epsilon=0.01, tol=1e-6, max_iter=5000, method=method, init=start)
    assert warm.num_iters[[0, 2]].tolist() == cold.num_iters[[0, 2]].tolist()
    assert int(warm.num_iters[1]) <= 1


@pytest.mark.parametrize("method", METHODS)
def test_what_does_not_converge_says_so(method: str) -> None:
    cost, a, b = problem(40, 20, torch.float32)
    result = sinkhorn(cost, a, b, epsilon=0.002, tol=1e-6, max_iter=3, method=method)
    assert not bool(result.converged.any())
    assert result.num_iters.tolist() == [3, 3, 3]
    assert bool(torch.isfinite(result.plan).all())


@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_those_of_the_reference(method: str) -> None:
    cost, a, b = problem(8, 5, torch.float64)
    weight = torch.randn_like(cost)
    gradients = []
    for solver in (method, "reference"):
        leaf = cost.clone().requires_grad_()
        result = sinkhorn(
            leaf, a, b, epsilon=0.1, tol=1e-12, max_iter=20_000, gradient="implicit", method=solver
        )
        (result.value.sum() + (result.plan * weight).sum()).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_warm_start_saves_sweeps(method: str) -> None:
    cost, a, b = problem(60, 20, torch.float64)
    cold = sinkhorn(cost, a, b, epsilon=0.02, tol=1e-6, max_iter=5000, method=method)
    warm = sinkhorn(cost, a, b, epsilon=0.02, tol=1e-6, max_iter=5000, method=method, init=cold.g)
    assert bool((warm.num_iters < cold.num_iters / 2).all())


@pytest.mark.parametrize("method", ["auto", "reference", *METHODS])
def test_no_plan_holds_numbers_too_small_to_be_normal(method: str) -> None:
    cost, a, b = problem(40, 30, torch.float32)
    options = {"epsilon": 0.004, "tol": 1e-5, "max_iter": 100, "method": method}
    plan = sinkhorn(cost, a, b, **options).plan
    assert bool(((plan == 0) | (plan > 1e-31)).all())
    assert bool((plan == 0).any())


@pytest.mark.parametrize("method", ["auto", "reference", *METHODS])
@pytest.mark.parametrize(("n", "m"), [(40, 5), (40, 16), (300, 32)])
def test_a_row_that_can_go_nowhere_is_reported(method: str, n: int, m: int) -> None:
    cost, a, b = torch.rand(2, n, m), torch.full((2, n), 1 / n), torch.full((2, m), 1 / m)
    cost[0, 3] = float("inf")
    result = sinkhorn(cost, a, b, epsilon=0.05, method=method)
    assert result.converged.tolist() == [False, True]


@pytest.mark.parametrize("method", ["reference", *METHODS])
def test_rows_without_any_column_are_reported_and_columns_without_rows(method: str) -> None:
    cost, a, b = problem(6, 4, torch.float32)
    b[1] = 0
    result = sinkhorn(cost, a, b, epsilon=0.05, rho_b=0.3, method=method)
    assert result.converged.tolist() == [True, False, True]
    assert float(result.marginal_error[1]) == pytest.approx(1)
    assert not bool(result.plan[1].any())
    b[1], a[1] = 1 / 4, 0
    result = sinkhorn(cost, a, b, epsilon=0.05, rho_a=0.3, method=method)
    assert result.converged.tolist() == [True, False, True]


@pytest.mark.parametrize("method", METHODS)
def test_no_mass_crosses_an_infinite_cost(method: str) -> None:
    cost, a, b = problem(12, 6, torch.float32)
    cost[:, ::2, :3] = float("inf")
    result = sinkhorn(cost, a, b, epsilon=0.05, tol=1e-4, rho_b=0.5, method=method)
    assert bool(result.converged.all())
    assert float(result.plan[:, ::2, :3].sum()) < 1e-9


@pytest.mark.parametrize("method", ["auto", "reference", *METHODS])
@pytest.mark.parametrize("shape", [(2, 0, 3), (2, 4, 0), (0, 4, 3)])
def test_nothing_to_solve_is_solved(method: str, shape: tuple[int, int, int]) -> None:
    a, b = torch.zeros(shape[:2]), torch.zeros(shape[0], shape[2])
    result = sinkhorn(torch.zeros(shape), a, b, epsilon=0.05, method=method)
    assert result.plan.shape == shape
    assert bool(result.converged.all())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rho_a", "rho_b"), RELAXATIONS)
def test_the_marginals_of_a_solution_are_those_of_its_plan(
    method: str, dtype: torch.dtype, rho_a: float | None, rho_b: float | None
) -> None:
    cost, a, b = problem(33, 18, dtype)
    a[:, 4:7], b[:, 3] = 0, 0
    a, b = a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)
    taus = (1.0 if rho is None else rho / (rho + 0.05) for rho in (rho_a, rho_b))
    given = Problem(cost, a, b, torch.zeros_like(b), 0.05, *taus, 1e-4, 1000)
    found = SOLVERS[method](given)
    torch.testing.assert_close(found.rows, found.plan.sum(2))
    torch.testing.assert_close(found.columns, found.plan.sum(1))
