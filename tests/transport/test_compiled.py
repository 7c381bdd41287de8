"""Building the compiled solver, and which solver is chosen."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from otreg import sinkhorn
from otreg.transport import compiled

# Looks for the compiler alone: where there is one, a solver that does not build fails these tests.
needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "c++")) is None,
    reason="no C++ compiler on this machine, where otreg solves in torch (tested below and beside)",
)


def problem() -> tuple[Tensor, Tensor, Tensor]:
    return torch.rand(2, 4, 3), torch.full((2, 4), 1 / 4), torch.full((2, 3), 1 / 3)


def test_auto_takes_torch_where_nothing_can_be_built(monkeypatch) -> None:
    monkeypatch.setattr(compiled, "_library", lambda: None)
    arguments = problem()
    assert sinkhorn(*arguments, epsilon=0.1, method="auto").method == "accelerated"
    with pytest.raises(ValueError, match="could not be built here"):
        sinkhorn(*arguments, epsilon=0.1, method="compiled")


def test_methods_that_do_not_fit_are_refused() -> None:
    arguments = problem()
    with pytest.raises(ValueError, match="has no unrolled gradient"):
        sinkhorn(*arguments, epsilon=0.1, gradient="unrolled", method="compiled")
    with pytest.raises(
        ValueError, match="method must be one of auto, reference, accelerated, compiled"
    ):
        sinkhorn(*arguments, epsilon=0.1, method="fast")


def test_a_failed_build_is_reported_and_harmless(tmp_path: Path) -> None:
    code = (
        "import logging; logging.basicConfig(level=logging.INFO)\n"
        "from otreg.transport import compiled; print(compiled.is_available())"
    )
    environment = {"PATH": "/nowhere", "TORCH_EXTENSIONS_DIR": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
    assert "the compiled solver is not available, torch's is used" in done.stderr
    assert not list(tmp_path.glob("*.so"))


@needs_compiler
def test_the_solver_leaves_denormal_numbers_to_others(tmp_path: Path) -> None:
    code = (
        "import numpy, torch; from otreg import sinkhorn\n"
        "half = torch.full((1, 2), 0.5)\n"
        "assert sinkhorn(torch.rand(1, 2, 2), half, half, epsilon=0.1).method == 'compiled'\n"
        "print(numpy.float32(1e-39) * numpy.float32(0.5) > 0, float(torch.tensor(1e-39) / 2) > 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.split() == ["True", "True"]


@needs_compiler
@pytest.mark.parametrize("fails_at", ["compiling", "loading"])
def test_a_compiler_without_openmp_builds_the_same_solver(
    fails_at, tmp_path: Path, monkeypatch
) -> None:
    cost = torch.rand(5, 40, 20)
    arguments = cost, torch.full((5, 40), 1 / 40), torch.full((5, 20), 1 / 20)
    usual = sinkhorn(*arguments, epsilon=0.02, method="compiled")
    compile_for_real = compiled._compile

    def without_openmp(path: Path, openmp: list[str]) -> None:
        if openmp and fails_at == "loading":
            raise OSError("undefined symbol: __kmpc_global_thread_num")  # Clang without libomp
        compile_for_real(path, ["-fno-such-flag"] if openmp else [])

    monkeypatch.setattr(compiled, "_compile", without_openmp)
    path = tmp_path / "solver.so"
    compiled._build(path)
    solvers = compiled._load(path)
    monkeypatch.setattr(compiled, "_library", lambda: solvers)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    result = sinkhorn(*arguments, epsilon=0.02, method="compiled")
    assert torch.equal(result.plan, usual.plan)


def large_problem(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """A speech-like cost whose kernel, above 1 MiB, is also kept rounded; padded."""
    generator = torch.Generator().manual_seed(0)
    n, m = 810, 410
    away = torch.linspace(0, 1, n)[:, None] - torch.linspace(0, 1, m)
    cost = (0.6 * away.abs() + 0.4 * torch.rand(1, n, m, generator=generator)).to(dtype)
    assert (n - 9) * (m - 7) * cost.element_size() > 2**20  # kLarge in csrc/problem.h
    a, b = torch.rand(1, n, generator=generator) + 0.1, torch.rand(1, m, generator=generator) + 0.1
    a[:, -9:], b[:, 100:107] = 0, 0
    return cost, (a / a.sum()).to(dtype), (b / b.sum()).to(dtype)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rho_b", [None, 0.3])
@pytest.mark.parametrize(("epsilon", "tol"), [(0.05, 1e-2), (0.02, 1e-3), (0.01, 1e-5)])
def test_a_large_kernel_is_solved_exactly(epsilon, tol, rho_b, dtype) -> None:
    cost, a, b = large_problem(dtype)
    options = {"epsilon": epsilon, "rho_b": rho_b, "max_iter": 3000}
    result = sinkhorn(cost, a, b, tol=tol, method="compiled", **options)
    assert bool(result.converged.all())
    if rho_b is None:
        columns = result.plan.double().sum(1)
        error = float((columns - b.double()).abs().sum())
        assert error == pytest.approx(float(result.marginal_error), rel=0.05, abs=2e-6)
    torch.testing.assert_close(result.plan.double().sum(2), a.double(), rtol=1e-5, atol=1e-9)
    wanted = sinkhorn(cost.double(), a.double(), b.double(), tol=1e-6, method="newton", **options)
    # A plan as far from its marginals as tol may be a few times farther from the answer.
    assert float((result.plan.double() - wanted.plan).abs().sum()) < 10 * tol


@needs_compiler
@pytest.mark.parametrize("max_iter", [1, 2, 7])
def test_a_large_kernel_cut_short_reports_the_error_of_its_plan(max_iter: int) -> None:
    cost, a, b = large_problem(torch.float32)
    options = {"epsilon": 0.01, "tol": 1e-6, "max_iter": max_iter, "method": "compiled"}
    result = sinkhorn(cost, a, b, **options)
    assert not bool(result.converged)
    assert int(result.num_iters) == max_iter
    error = float((result.plan.double().sum(1) - b.double()).abs().sum())
    assert error == pytest.approx(float(result.marginal_error), rel=1e-3)


@needs_compiler
def test_a_plan_that_rounding_would_miss_by_most_still_converges() -> None:
    n = 600  # a permutation: every column has one row, whose rounding nothing evens out
    generator = torch.Generator().manual_seed(1)
    cost = torch.rand(1, n, n, generator=generator)
    cost[0, torch.arange(n), torch.randperm(n, generator=generator)] -= 1
    masses = torch.rand(1, n, generator=generator) + 0.5
    a = masses / masses.sum()
    result = sinkhorn(cost, a, a.flip(1), epsilon=0.05, tol=1e-5, method="compiled")
    assert bool(result.converged.all())
    columns = result.plan.double().sum(1)
    assert float((columns - a.flip(1).double()).abs().sum()) < 1.2e-5
