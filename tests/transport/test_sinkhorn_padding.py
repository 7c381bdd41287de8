import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from otreg import TransportResult, sinkhorn
from otreg.transport import accelerated, cosine_cost

SIZES = [(9, 5), (4, 7), (12, 1), (6, 6)]
RHOS = [None, 0.3]


def ragged() -> list[tuple[Tensor, Tensor, Tensor]]:
    problems = []
    for n, m in SIZES:
        cost = cosine_cost(torch.randn(1, n, 8), torch.randn(1, m, 8)).double()
        a, b = torch.rand(1, n).double() + 0.1, torch.rand(1, m).double() + 0.1
        problems.append((cost, a / a.sum(), b / b.sum()))
    return problems


def stack(
    problems: list[tuple[Tensor, Tensor, Tensor]], n: int, m: int, fill: float
) -> tuple[Tensor, Tensor, Tensor]:
    costs, a, b = zip(*problems, strict=True)
    return (
        torch.cat([pad(c, (0, m - c.shape[2], 0, n - c.shape[1]), value=fill) for c in costs]),
        torch.cat([pad(x, (0, n - x.shape[1])) for x in a]),
        torch.cat([pad(x, (0, m - x.shape[1])) for x in b]),
    )


def assert_same(batch: TransportResult, k: int, single: TransportResult) -> None:
    _, n, m = single.plan.shape
    torch.testing.assert_close(batch.plan[k, :n, :m], single.plan[0])
    torch.testing.assert_close(batch.f[k, :n], single.f[0])
    torch.testing.assert_close(batch.g[k, :m], single.g[0])
    torch.testing.assert_close(batch.value[k], single.value[0])
    assert batch.num_iters[k] == single.num_iters[0]
    for rest in (batch.plan[k, n:], batch.plan[k, :, m:], batch.f[k, n:], batch.g[k, m:]):
        assert bool((rest == 0).all())  # exactly


@pytest.mark.parametrize("rho", RHOS)
@pytest.mark.parametrize("fill", [0.0, 1e6, float("nan"), float("inf"), -float("inf")])
def test_batch_equals_loop_whatever_stands_in_the_padding(fill: float, rho: float | None) -> None:
    problems = ragged()
    batch = sinkhorn(*stack(problems, 15, 9, fill), epsilon=0.03, rho_b=rho)
    assert bool(batch.converged.all())
    assert len(batch.num_iters.unique()) > 1  # each problem stopped at its own time
    for k, problem in enumerate(problems):
        assert_same(batch, k, sinkhorn(*problem, epsilon=0.03, rho_b=rho))


@pytest.mark.parametrize("gradient", ["envelope", "unrolled", "implicit"])
def test_padding_takes_no_gradient_and_changes_none(gradient: str) -> None:
    def loss_of(result: TransportResult, weight: Tensor) -> Tensor:
        value = result.value.sum()
        return value if gradient == "envelope" else value + (result.plan * weight).sum()

    problems = ragged()
    cost, a, b = stack(problems, 15, 9, float("nan"))
    weight = torch.randn_like(cost)
    cost.requires_grad_()
    result = sinkhorn(cost, a, b, epsilon=0.1, gradient=gradient)
    loss_of(result, weight).backward()
    assert cost.grad is not None
    for k, (alone, a_k, b_k) in enumerate(problems):
        _, n, m = alone.shape
        alone = alone.clone().requires_grad_()
        single = sinkhorn(alone, a_k, b_k, epsilon=0.1, gradient=gradient)
        loss_of(single, weight[k : k + 1, :n, :m]).backward()
        assert alone.grad is not None
        torch.testing.assert_close(cost.grad[k, :n, :m], alone.grad[0])
        assert bool((cost.grad[k, n:] == 0).all())
        assert bool((cost.grad[k, :, m:] == 0).all())


@pytest.mark.parametrize("gradient", ["envelope", "unrolled", "implicit"])
def test_an_empty_problem_moves_nothing_and_breaks_nothing(gradient: str) -> None:
    cost, a, b = stack(ragged(), 12, 7, 0.0)
    a[1], b[1] = 0.0, 0.0
    cost.requires_grad_()
    result = sinkhorn(cost, a, b, epsilon=0.1, gradient=gradient)
    (result.value.sum() + (result.plan.square().sum() if gradient != "envelope" else 0)).backward()
    assert bool((result.plan[1] == 0).all())
    assert float(result.value[1].detach()) == 0
    assert bool(result.converged.all())
    assert int(result.num_iters[1]) == 0
    assert cost.grad is not None
    assert bool(torch.isfinite(cost.grad).all())
    assert bool((cost.grad[1] == 0).all())


def test_an_empty_side_of_a_relaxed_problem_pays_for_its_missing_mass() -> None:
    cost, a, b = ragged()[0]
    result = sinkhorn(cost, 0 * a, b, epsilon=0.1, rho_b=0.4)
    assert bool((result.plan == 0).all())
    assert float(result.value) == pytest.approx(0.4)  # rho_b KL(0 | b) = rho_b
    assert bool(result.converged)


def test_zero_masses_inside_a_problem_act_as_if_left_out() -> None:
    cost, a, b = ragged()[0]
    a, b = a.clone(), b.clone()
    a[0, 2], b[0, 1] = 0.0, 0.0
    a, b = a / a.sum(), b / b.sum()
    rows, columns = [0, 1, 3, 4, 5, 6, 7, 8], [0, 2, 3, 4]
    whole = sinkhorn(cost, a, b, epsilon=0.05)
    part = sinkhorn(cost[:, rows][:, :, columns], a[:, rows], b[:, columns], epsilon=0.05)
    torch.testing.assert_close(whole.plan[:, rows][:, :, columns], part.plan)
    assert bool((whole.plan[:, 2] == 0).all())
    assert bool((whole.plan[:, :, 1] == 0).all())


@pytest.mark.parametrize("gradient", ["envelope", "unrolled"])
def test_a_ragged_batch_solved_in_groups_is_that_solved_whole(gradient: str, monkeypatch) -> None:
    cost, a, b = stack(ragged(), 15, 9, float("nan"))
    weight = torch.randn_like(cost)
    answers = []
    for min_cells in (0, accelerated._MIN_CELLS):
        monkeypatch.setattr(accelerated, "_MIN_CELLS", min_cells)
        assert len(accelerated._groups(a, b)) == (1 if min_cells else len(SIZES))
        leaf = cost.clone().requires_grad_()
        options = {"epsilon": 0.05, "gradient": gradient, "method": "accelerated"}
        result = sinkhorn(leaf, a, b, **options)
        loss = result.value.sum()
        if gradient == "unrolled":
            loss = loss + (result.plan * weight).sum()
        loss.backward()
        answers.append((result.plan.detach(), result.num_iters, leaf.grad))
    torch.testing.assert_close(*answers)
