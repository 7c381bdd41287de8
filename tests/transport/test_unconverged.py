"""The warning names the reason, and the remedy that it names helps."""

import logging

import pytest
import torch
from test_compiled import needs_compiler
from torch import Tensor

from otreg import sinkhorn

SWEEPS = ["accelerated", pytest.param("compiled", marks=needs_compiler)]


@pytest.fixture
def warning(caplog: pytest.LogCaptureFixture):
    """The one warning of a solve; "" where there is none."""

    def of_solve(*arguments: Tensor, **options) -> str:
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="otreg"):
            sinkhorn(*arguments, **options)
        assert len(caplog.records) <= 1
        return caplog.text

    return of_solve


def uniform(n: int, m: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.full((2, n), 1 / n, dtype=dtype), torch.full((2, m), 1 / m, dtype=dtype)


def squared_distances(n: int, m: int, scale: float, dim: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, size, dim, generator=generator).double() for size in (n, m))
    return scale * torch.cdist(x, y).square()


@pytest.mark.parametrize("method", ["auto", "newton", *SWEEPS])
def test_masses_that_cannot_agree_are_the_reason_given(warning, method: str) -> None:
    cost = torch.rand(2, 40, 20).double()
    a, b = torch.rand(2, 40), torch.rand(2, 20)
    a, b = a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)  # sums right to float32 only
    options = {"epsilon": 0.05, "tol": 1e-9, "method": method, "max_iter": 300}
    text = warning(cost, a, b, **options)
    assert "the masses of a and b sum to totals that differ by" in text
    assert "divide both by their sums in torch.float64" in text
    a, b = (x.double() / x.double().sum(1, keepdim=True) for x in (a, b))
    assert warning(cost, a, b, **options) == ""


@pytest.mark.parametrize(("scale", "dim"), [(1e3, 2), (1e3, 8), (1e5, 2), (1e5, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tiny_epsilon_is_solved(dtype: torch.dtype, scale: float, dim: int) -> None:
    cost = squared_distances(40, 20, scale, dim).to(dtype)
    for method in ("auto", "newton"):
        result = sinkhorn(cost, *uniform(40, 20, dtype), epsilon=0.05, method=method)
        assert bool(result.converged.all())
        error = (result.plan.sum(1) - 1 / 20).abs().sum(1) + (
            result.plan.sum(2) - 1 / 40
        ).abs().sum(1)
        assert float(error.max()) < 1.1e-3


@pytest.mark.parametrize("method", SWEEPS)
def test_a_tiny_epsilon_is_the_reason_given_and_newton_helps(warning, method: str) -> None:
    cost = squared_distances(40, 20, 1e3, 8)
    text = warning(cost, *uniform(40, 20), epsilon=0.05, method=method)
    assert "of the range of its costs" in text
    assert "or pass method='newton'" in text
    assert warning(cost, *uniform(40, 20), epsilon=0.05, method="newton") == ""


def test_few_sweeps_at_a_large_epsilon_need_no_other_reason(warning) -> None:
    cost = torch.rand(2, 40, 20).double()
    options = {"epsilon": 0.05, "tol": 1e-8}
    text = warning(cost, *uniform(40, 20), max_iter=5, **options)
    assert "'): raise max_iter, epsilon or tol, or pass" in text
    assert warning(cost, *uniform(40, 20), **options) == ""


def test_an_error_below_the_rounding_of_float32_is_the_reason_given(warning) -> None:
    cost, masses = torch.rand(2, 40, 20), uniform(40, 20, torch.float32)
    text = warning(cost, *masses, epsilon=0.05, tol=1e-9)
    assert "pass the cost and the masses in float64, or a tol of 1e-06 or more" in text
    assert warning(cost, *masses, epsilon=0.05, tol=1e-6) == ""
    assert warning(cost.double(), *uniform(40, 20), epsilon=0.05, tol=1e-9) == ""


def test_an_unrolled_gradient_is_offered_the_implicit_one(warning) -> None:
    cost = squared_distances(40, 20, 1e3, 8).requires_grad_()
    options = {"epsilon": 0.05, "max_iter": 200}
    assert "gradient='implicit'" in warning(cost, *uniform(40, 20), gradient="unrolled", **options)
    assert warning(cost, *uniform(40, 20), gradient="implicit", **options) == ""


@pytest.mark.parametrize("method", ["auto", "newton", "reference", *SWEEPS])
def test_mass_that_can_go_nowhere_is_the_reason_given(warning, method: str) -> None:
    cost = torch.rand(2, 6, 4).double()
    cost[1, 2] = torch.inf
    text = warning(cost, *uniform(6, 4), epsilon=0.05, method=method, max_iter=150)
    assert "1 row(s) of problem 1 have mass and no finite cost" in text
    text = warning(cost.mT, *uniform(4, 6), epsilon=0.05, method=method, max_iter=150)
    assert "1 column(s) of problem 1 have mass and no finite cost" in text
