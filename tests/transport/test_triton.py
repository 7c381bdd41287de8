"""The Triton kernel against the reference: on the GPU where there is one, else in the interpreter.

conftest.py asks for the interpreter, before anything can have imported triton.
"""

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from otreg.transport import cosine_cost
from otreg.transport.problem import Problem
from otreg.transport.reference import solve_reference
from otreg.transport.triton_kernel import block_sizes, is_available, solve_triton

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SIZES = [(1, 1), (1, 7), (7, 1), (63, 20), (33, 17), (20, 63)]
RELAXATIONS = [(None, None), (None, 0.3), (0.3, None), (0.2, 0.5), (None, 0.0), (0.0, 0.4)]

# On Linux, where the extra `dev` brings triton, nothing is skipped: without it these tests (and those
# of test_triton_aot.py) fail.
needs_triton = pytest.mark.skipif(
    sys.platform != "linux", reason="triton is published for Linux alone"
)


def problem(
    n: int, m: int, dtype: torch.dtype = torch.float32, batch: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    cost = cosine_cost(torch.randn(batch, n, 8), torch.randn(batch, m, 8)).to(dtype)
    a, b = torch.rand(batch, n, dtype=dtype) + 0.1, torch.rand(batch, m, dtype=dtype) + 0.1
    return cost, a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)


def prepared(
    cost: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    epsilon: float,
    tol: float = 1e-3,
    max_iter: int = 1000,
    rho_a: float | None = None,
    rho_b: float | None = None,
    init: Tensor | None = None,
) -> Problem:
    """As `sinkhorn` prepares it."""
    start = torch.zeros_like(b) if init is None else torch.where(b > 0, init, 0.0)
    taus = [1.0 if rho is None else rho / (rho + epsilon) for rho in (rho_a, rho_b)]
    return Problem(cost, a, b, start, epsilon, *taus, tol, max_iter)


def solve(*arguments: Tensor, **options) -> tuple[Tensor, ...]:
    """f, g, plan, num_iters and error."""
    problem = prepared(*arguments, **options)
    moved = Problem(*(x.to(DEVICE) if torch.is_tensor(x) else x for x in vars(problem).values()))
    found = solve_triton(moved)
    torch.testing.assert_close(found.rows, found.plan.sum(2), equal_nan=True)
    torch.testing.assert_close(found.columns, found.plan.sum(1), equal_nan=True)
    return tuple(x.cpu() for x in (found.f, found.g, found.plan, found.num_iters, found.error))


def reference_plan(*arguments: Tensor, **options) -> Tensor:
    problem = prepared(*(x.double() for x in arguments), **options)
    solution = solve_reference(problem)
    assert bool((solution.error <= problem.tol).all())
    return solution.plan


@needs_triton
@pytest.mark.parametrize(("rho_a", "rho_b"), RELAXATIONS)
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_it_agrees_with_the_reference(
    n: int, m: int, rho_a: float | None, rho_b: float | None
) -> None:
    options = {"epsilon": 0.05, "tol": 1e-10, "max_iter": 20_000, "rho_a": rho_a, "rho_b": rho_b}
    arguments = problem(n, m, torch.float64)
    f, g, plan, num_iters, error = solve(*arguments, **options)
    assert bool((error <= 1e-10).all())
    assert int(num_iters.max()) < 500
    torch.testing.assert_close(plan, reference_plan(*arguments, **options), atol=1e-9, rtol=1e-6)
    cost, a, b = arguments
    made = a.unsqueeze(2) * b.unsqueeze(1)
    made = made * ((f.unsqueeze(2) + g.unsqueeze(1) - cost) / 0.05).exp()
    torch.testing.assert_close(made, plan, atol=1e-14, rtol=1e-9)


@needs_triton
@pytest.mark.parametrize(("rho_a", "rho_b"), [(None, None), (0.2, 0.5)])
@pytest.mark.parametrize(("n", "m"), [(300, 20), (40, 150), (3, 4096)])
def test_problems_of_several_tiles_agree_with_the_reference(
    n: int, m: int, rho_a: float | None, rho_b: float | None
) -> None:
    assert n > 2 * block_sizes(n, m, 8)[0]
    options = {"epsilon": 0.1, "tol": 1e-8, "rho_a": rho_a, "rho_b": rho_b}
    arguments = problem(n, m, torch.float64, batch=1)
    f, _, plan, _, error = solve(*arguments, **options)
    assert bool((error <= 1e-8).all())
    torch.testing.assert_close(plan, reference_plan(*arguments, **options), atol=1e-8, rtol=1e-4)
    assert bool(torch.isfinite(f).all())


@needs_triton
@pytest.mark.parametrize(("rho_a", "rho_b"), [(None, None), (0.2, 0.5)])
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_float32_is_close_to_the_float64_reference(
    n: int, m: int, rho_a: float | None, rho_b: float | None
) -> None:
    options = {"epsilon": 0.05, "rho_a": rho_a, "rho_b": rho_b}
    arguments = problem(n, m, torch.float64)
    _, _, plan, _, error = solve(*(x.float() for x in arguments), **options, tol=1e-5)
    assert plan.dtype == error.dtype == torch.float32
    assert bool((error <= 1e-5).all())
    exact = reference_plan(*arguments, **options, tol=1e-10, max_iter=20_000)
    assert float((plan.double() - exact).abs().sum((1, 2)).max()) < 1e-4


@needs_triton
@pytest.mark.parametrize(
    ("epsilon", "n", "m"), [(0.01, 63, 20), (0.01, 20, 20), (0.01, 15, 30), (0.002, 63, 20)]
)
def test_marginals_hold_in_float32_down_to_small_epsilon(epsilon: float, n: int, m: int) -> None:
    cost, a, b = problem(n, m)
    _, _, plan, _, reported = solve(cost, a, b, epsilon=epsilon, max_iter=3000)
    assert bool((reported <= 1e-3).all())
    plan = plan.double()
    error = (plan.sum(1) - b).abs().sum(1) + (plan.sum(2) - a).abs().sum(1)
    torch.testing.assert_close(error.float(), reported, atol=1e-5, rtol=1e-2)
    torch.testing.assert_close(plan.sum(2).float(), a, atol=1e-6, rtol=1e-3)  # rows stay exact


@needs_triton
@pytest.mark.parametrize("rho_b", [None, 0.3])
def test_zero_masses_act_as_if_left_out(rho_b: float | None) -> None:
    rows, columns = torch.arange(0, 40, 2), torch.arange(1, 15, 2)
    cost, a, b = problem(len(rows), len(columns))
    padded = torch.full((2, 40, 15), float("nan"))
    a_padded, b_padded = torch.zeros(2, 40), torch.zeros(2, 15)
    padded[:, rows.unsqueeze(1), columns] = cost
    a_padded[:, rows], b_padded[:, columns] = a, b
    f, g, plan, num_iters, _ = solve(padded, a_padded, b_padded, epsilon=0.03, rho_b=rho_b)
    f_alone, g_alone, plan_alone, num_iters_alone, _ = solve(cost, a, b, epsilon=0.03, rho_b=rho_b)
    torch.testing.assert_close(plan[:, rows.unsqueeze(1), columns], plan_alone)
    torch.testing.assert_close(f[:, rows], f_alone)
    torch.testing.assert_close(g[:, columns], g_alone)
    assert num_iters.tolist() == num_iters_alone.tolist()
    plan[:, rows.unsqueeze(1), columns] = 0
    assert bool((plan == 0).all())  # exactly
    assert bool((f[:, 1::2] == 0).all())
    assert bool((g[:, ::2] == 0).all())


@needs_triton
def test_problems_stop_each_at_its_own_time() -> None:
    cost, a, b = problem(33, 17, batch=4)
    cost[1] = 0.5  # solved by the start
    cost[2, :, 9:] += 0.5
    _, _, plan, num_iters, _ = solve(cost, a, b, epsilon=0.02)
    assert int(num_iters[1]) == 0
    assert len(num_iters.unique()) > 2
    for k in range(4):
        _, _, alone, num_iters_alone, _ = solve(
            cost[k : k + 1], a[k : k + 1], b[k : k + 1], epsilon=0.02
        )
        assert torch.equal(plan[k], alone[0])
        assert num_iters[k] == num_iters_alone[0]


@needs_triton
def test_what_does_not_converge_says_so() -> None:
    _, _, plan, num_iters, error = solve(*problem(40, 20), epsilon=0.002, tol=1e-6, max_iter=3)
    assert num_iters.tolist() == [3, 3]
    assert bool((error > 1e-6).all())
    assert bool(torch.isfinite(plan).all())


@needs_triton
def test_a_nan_cost_is_reported_and_stays_in_its_own_problem() -> None:
    cost, a, b = problem(6, 4)
    cost[0, 2, 1] = float("nan")
    _, _, plan, _, error = solve(cost, a, b, epsilon=0.1, max_iter=20)
    assert bool(torch.isnan(error[0]))
    assert float(error[1]) <= 1e-3
    assert bool(torch.isfinite(plan[1]).all())


@needs_triton
def test_an_empty_problem_moves_nothing_and_breaks_nothing() -> None:
    cost, a, b = problem(12, 7)
    a[1], b[1] = 0.0, 0.0
    f, g, plan, num_iters, error = solve(cost, a, b, epsilon=0.1)
    assert bool((plan[1] == 0).all())
    assert bool((f[1] == 0).all() & (g[1] == 0).all())
    assert (int(num_iters[1]), float(error[1])) == (0, 0)
    assert float(error[0]) <= 1e-3


@needs_triton
def test_a_warm_start_from_its_own_answer_needs_no_sweep() -> None:
    arguments = problem(60, 20, torch.float64)
    _, g, plan, cold, _ = solve(*arguments, epsilon=0.02, tol=1e-6)
    _, _, again, warm, _ = solve(*arguments, epsilon=0.02, tol=1e-5, init=g)
    assert int(cold.min()) > 0
    assert int(warm.max()) == 0
    torch.testing.assert_close(again, plan, atol=1e-6, rtol=0)


@needs_triton
def test_a_start_far_off_is_recovered_from() -> None:
    arguments = problem(20, 9)
    _, _, plan, _, error = solve(
        *arguments, epsilon=0.05, rho_a=0.0, rho_b=0.4, init=torch.full((2, 9), 30.0)
    )
    assert bool((error <= 1e-3).all())
    exact = reference_plan(*arguments, epsilon=0.05, rho_a=0.0, rho_b=0.4, tol=1e-8)
    assert float((plan.double() - exact).abs().sum((1, 2)).max()) < 1e-2


@needs_triton
def test_views_are_solved_like_copies() -> None:
    cost, a, b = problem(9, 12)
    turned = solve(cost.mT.contiguous().mT, a, b, epsilon=0.05)
    for ours, theirs in zip(turned, solve(cost, a, b, epsilon=0.05), strict=True):
        assert torch.equal(ours, theirs)


def test_tiles_hold_all_columns_and_have_sizes_that_triton_takes() -> None:
    for n in (1, 7, 100, 375, 4096, 5000):
        for m in (1, 20, 80, 129, 1024, 4096, 5000):
            block_n, block_m, num_warps = block_sizes(n, m)
            assert block_m >= m
            for size in (block_n, block_m, num_warps):
                assert size.bit_count() == 1
            assert num_warps <= 16


def test_nothing_imports_triton_before_a_solve() -> None:
    code = "import sys, otreg, otreg.transport.triton_kernel as t, torch\n"
    code += "t.is_available(torch.device('cpu')); print('triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_cpu_needs_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert not is_available(torch.device("cpu"))
