import logging
import math

import numpy as np
import ot
import pytest
import torch
from torch import Tensor

from oracles import mass_1x1, permutation_problem, plan_2x2, primal_value, sinkhorn_loop
from otreg import sinkhorn
from otreg.transport import cosine_cost

RELAXATIONS = [(None, None), (None, 0.3), (0.3, None), (0.2, 0.5), (None, 0.0), (0.0, 0.4)]


def random_problem(
    n: int, m: int, batch: int = 3, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    cost = cosine_cost(torch.randn(batch, n, 8), torch.randn(batch, m, 8)).to(dtype)
    a = torch.rand(batch, n, dtype=dtype) + 0.1
    b = torch.rand(batch, m, dtype=dtype) + 0.1
    return cost, a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)


def as_rho(rho: float | None) -> float:
    return float("inf") if rho is None else rho


@pytest.mark.parametrize("epsilon", [0.05, 0.2, 1.0])
def test_plan_matches_the_2x2_closed_form(epsilon: float) -> None:
    cost = torch.tensor([[[0.3, 1.1], [0.4, 0.2]]], dtype=torch.float64)
    a, b = torch.tensor([[0.7, 0.3]]).double(), torch.tensor([[0.45, 0.55]]).double()
    result = sinkhorn(cost, a, b, epsilon=epsilon, tol=1e-12)
    expected = plan_2x2(cost[0].numpy(), 0.7, 0.45, epsilon)
    np.testing.assert_allclose(result.plan[0], expected, atol=1e-7)


def test_relaxed_1x1_matches_its_stationary_point() -> None:
    cost = torch.tensor([[[0.8]]], dtype=torch.float64)
    a, b = torch.tensor([[0.7]]).double(), torch.tensor([[1.3]]).double()
    result = sinkhorn(cost, a, b, epsilon=0.1, rho_a=0.5, rho_b=2.0, tol=1e-12)
    expected = mass_1x1(0.8, float(a), float(b), 0.1, 0.5, 2.0)
    assert float(result.plan) == pytest.approx(expected, rel=1e-9)


def test_plan_finds_permutations_planted_in_the_cost() -> None:
    cost, plan = permutation_problem(4, 7)
    mass = torch.full((4, 7), 1 / 7)
    result = sinkhorn(cost, mass, mass, epsilon=0.05)
    assert bool(result.converged.all())
    torch.testing.assert_close(result.plan, plan, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("n", "m"), [(12, 7), (7, 12), (5, 1), (1, 5), (9, 9)])
@pytest.mark.parametrize("epsilon", [0.02, 0.1])
def test_plan_and_value_match_pot(n: int, m: int, epsilon: float) -> None:
    cost, a, b = random_problem(n, m)
    result = sinkhorn(cost, a, b, epsilon=epsilon, tol=1e-10, max_iter=5000)
    assert bool(result.converged.all())
    for k in range(len(cost)):
        expected = ot.sinkhorn(
            a[k].numpy(),
            b[k].numpy(),
            cost[k].numpy(),
            epsilon,
            method="sinkhorn_log",
            numItermax=50_000,
            stopThr=1e-12,
        )
        np.testing.assert_allclose(result.plan[k], expected, atol=1e-8)
        value = primal_value(expected, cost[k].numpy(), a[k].numpy(), b[k].numpy(), epsilon)
        assert float(result.value[k]) == pytest.approx(value, abs=1e-8)


def test_small_epsilon_approaches_the_exact_cost_of_emd() -> None:
    cost, a, b = random_problem(12, 7)
    exact = [ot.emd2(a[k].numpy(), b[k].numpy(), cost[k].numpy()) for k in range(len(cost))]
    gaps = []
    for epsilon in (0.1, 0.02, 0.004):
        result = sinkhorn(cost, a, b, epsilon=epsilon, tol=1e-6, max_iter=20_000)
        assert bool(result.converged.all())
        gaps.append((result.plan * cost).sum((1, 2)).numpy() - np.array(exact))
    assert (gaps[0] > gaps[1]).all()
    assert (gaps[1] > gaps[2]).all()
    np.testing.assert_allclose(gaps[2], 0, atol=5e-3)


@pytest.mark.parametrize(("rho_a", "rho_b"), RELAXATIONS)
def test_plan_and_value_match_a_float64_loop(rho_a: float | None, rho_b: float | None) -> None:
    cost, a, b = random_problem(9, 5)
    result = sinkhorn(cost, a, b, epsilon=0.1, rho_a=rho_a, rho_b=rho_b, tol=1e-11, max_iter=5000)
    assert bool(result.converged.all())
    for k in range(len(cost)):
        problem = cost[k].numpy(), a[k].numpy(), b[k].numpy()
        expected = sinkhorn_loop(*problem, 0.1, as_rho(rho_a), as_rho(rho_b))
        np.testing.assert_allclose(result.plan[k], expected, atol=1e-9)
        value = primal_value(expected, *problem, 0.1, rho_a or 0.0, rho_b or 0.0)
        assert float(result.value[k]) == pytest.approx(value, abs=1e-9)


def test_relaxed_plan_matches_pot_with_unequal_masses() -> None:
    cost, a, b = random_problem(9, 5)
    b = 2 * b
    result = sinkhorn(cost, a, b, epsilon=0.1, rho_a=0.5, rho_b=0.5, tol=1e-11)
    for k in range(len(cost)):
        problem = a[k].numpy(), b[k].numpy(), cost[k].numpy()
        expected = ot.unbalanced.sinkhorn_unbalanced(
            *problem, reg=0.1, reg_m=0.5, reg_type="kl", numItermax=20_000, stopThr=1e-13
        )
        np.testing.assert_allclose(result.plan[k], expected, atol=1e-8)


@pytest.mark.parametrize("epsilon", [0.05, 0.01, 0.002])
@pytest.mark.parametrize(("n", "m"), [(63, 20), (20, 20), (15, 30)])
def test_marginals_hold_in_float32_down_to_small_epsilon(epsilon: float, n: int, m: int) -> None:
    cost, a, b = random_problem(n, m, dtype=torch.float32)
    result = sinkhorn(cost, a, b, epsilon=epsilon, tol=1e-3, max_iter=3000)
    assert bool(result.converged.all())
    error = (result.plan.sum(1) - b).abs().sum(1) + (result.plan.sum(2) - a).abs().sum(1)
    torch.testing.assert_close(error, result.marginal_error, atol=1e-4, rtol=0)
    assert float(error.max()) < 1.2e-3
    torch.testing.assert_close(result.plan.sum(2), a, atol=1e-5, rtol=1e-3)  # rows stay exact


def test_potentials_make_the_plan() -> None:
    cost, a, b = random_problem(9, 5)
    result = sinkhorn(cost, a, b, epsilon=0.1)
    exponent = (result.f.unsqueeze(2) + result.g.unsqueeze(1) - cost) / 0.1
    torch.testing.assert_close(result.plan, a.unsqueeze(2) * b.unsqueeze(1) * exponent.exp())


def test_free_columns_let_each_row_choose_alone() -> None:
    cost, a, b = random_problem(9, 5)
    result = sinkhorn(cost, a, b, epsilon=0.1, rho_b=0.0)
    rows = (b.log().unsqueeze(1) - cost / 0.1).softmax(2)
    torch.testing.assert_close(result.plan, a.unsqueeze(2) * rows)


def test_permuting_columns_and_rows_permutes_the_plan() -> None:
    cost, a, b = random_problem(9, 5)
    rows, columns = torch.randperm(9), torch.randperm(5)
    plan = sinkhorn(cost, a, b, epsilon=0.05, tol=1e-9).plan
    moved = sinkhorn(
        cost[:, rows][:, :, columns], a[:, rows], b[:, columns], epsilon=0.05, tol=1e-9
    ).plan
    torch.testing.assert_close(moved, plan[:, rows][:, :, columns])


def test_warm_start_from_its_own_answer_needs_no_sweep() -> None:
    cost, a, b = random_problem(20, 9)
    cold = sinkhorn(cost, a, b, epsilon=0.02, tol=1e-6, max_iter=5000)
    warm = sinkhorn(cost, a, b, epsilon=0.02, tol=1e-5, init=cold.g)
    assert int(cold.num_iters.min()) > 0
    assert int(warm.num_iters.max()) == 0
    torch.testing.assert_close(warm.plan, cold.plan, atol=1e-6, rtol=0)


def test_momentum_needs_far_fewer_sweeps_than_plain_sinkhorn() -> None:
    cost, a, b = random_problem(45, 20)
    result = sinkhorn(cost, a, b, epsilon=0.005, tol=1e-3, max_iter=5000)
    assert bool(result.converged.all())
    slowest = int(result.num_iters.argmax())
    problem = cost[slowest].numpy(), a[slowest].numpy(), b[slowest].numpy()
    plain = sinkhorn_loop(*problem, 0.005, num_iters=2 * int(result.num_iters.max()))
    plain_error = np.abs(plain.sum(0) - problem[2]).sum()
    assert plain_error > 1e-3


def test_not_converging_is_reported_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    cost, a, b = random_problem(30, 20)
    cost[1] = 0.5  # solved by the start
    with caplog.at_level(logging.WARNING, logger="otreg"):
        result = sinkhorn(cost, a, b, epsilon=0.005, tol=1e-6, max_iter=3)
    assert result.converged.tolist() == [False, True, False]
    assert result.num_iters.tolist() == [3, 0, 3]
    assert float(result.marginal_error[0]) > 1e-6
    assert len(caplog.records) == 1
    assert "2 of 3 problems did not reach a marginal error of 1e-06" in caplog.text
    assert "raise max_iter, epsilon or tol" in caplog.text


def test_a_nan_cost_is_reported_and_stays_in_its_own_problem(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cost, a, b = random_problem(6, 4)
    alone = sinkhorn(cost[1:], a[1:], b[1:], epsilon=0.1)
    cost[0, 2, 1] = float("nan")
    with caplog.at_level(logging.WARNING, logger="otreg"):
        result = sinkhorn(cost, a, b, epsilon=0.1, max_iter=50)
    assert result.converged.tolist() == [False, True, True]
    torch.testing.assert_close(result.plan[1:], alone.plan)
    assert "1 of 3 problems" in caplog.text
    assert "the cost of problem 0 holds NaN" in caplog.text


def test_autocast_and_half_precision_costs_are_solved_in_float32() -> None:
    cost, a, b = random_problem(9, 5, dtype=torch.float32)
    expected = sinkhorn(cost.bfloat16().float(), a, b, epsilon=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = sinkhorn(cost.bfloat16(), a, b, epsilon=0.05)
    assert result.plan.dtype == result.value.dtype == torch.float32
    torch.testing.assert_close(result.plan, expected.plan)


def test_options_out_of_range_are_refused() -> None:
    cost, a, b = random_problem(4, 3)
    with pytest.raises(ValueError, match="epsilon must be a finite number > 0, got inf"):
        sinkhorn(cost, a, b, epsilon=math.inf)
    with pytest.raises(ValueError, match="tol must be a finite number > 0, got nan"):
        sinkhorn(cost, a, b, epsilon=0.1, tol=math.nan)


@pytest.mark.usefixtures("unchecked_shapes")
def test_shapes_that_do_not_fit_are_refused() -> None:
    cost, a, b = random_problem(4, 3)
    with pytest.raises(ValueError, match=r"cost must be \(batch, n, m\), got \(4, 3\)"):
        sinkhorn(cost[0], a[0], b[0], epsilon=0.1)
    with pytest.raises(ValueError, match=r"a must be \(3, 4\) to match cost"):
        sinkhorn(cost, b, b, epsilon=0.1)
    with pytest.raises(ValueError, match=r"init must be \(3, 3\) to match cost"):
        sinkhorn(cost, a, b, epsilon=0.1, init=a)


def test_bad_masses_are_refused() -> None:
    cost, a, b = random_problem(4, 3)
    with pytest.raises(ValueError, match="a must hold finite masses >= 0"):
        sinkhorn(cost, -a, b, epsilon=0.1)
    with pytest.raises(ValueError, match="b must hold finite masses >= 0"):
        sinkhorn(cost, a, b * float("nan"), epsilon=0.1)
    with pytest.raises(ValueError, match=r"equal masses, got 1 in a and 2 in b for problem 0"):
        sinkhorn(cost, a, 2 * b, epsilon=0.1)
