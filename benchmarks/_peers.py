"""The peers of `benchmarks/transport.py`: how each library is called, and what it cannot do.

Every solver takes (problem, cost, epsilon, knob) and answers with its plan; the knob is the
tolerance, or the number of iterations where a library has no stopping rule. A torch solver becomes a
whole loss by `whole_of`. Libraries are imported on first use.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from _problems import Problem, cost_of
from torch import Tensor

# POT would start JAX, TensorFlow and CuPy where they are installed; it is given torch's tensors.
for backend in ("JAX", "TENSORFLOW", "CUPY"):
    os.environ[f"POT_BACKEND_DISABLE_{backend}"] = "1"

RULE = 1e-3  # the marginal error, as a share of the mass, that ends a solve
MAX_ITER = 2000


@dataclass(frozen=True)
class Solved:
    """What a call leaves behind; the loss only where it is not <plan, cost>."""

    plan: Tensor | None = None
    potentials: tuple[Tensor, Tensor] | None = None  # where there is no plan: f and g
    iterations: int | None = None
    loss: Tensor | None = None
    gradient: Tensor | None = None  # at x
    note: str = ""


Solve = Callable[[Problem, Tensor, float, float], Solved]
Whole = Callable[[Problem, float, float], Solved]


def _tolerance(problem: Problem, size: int) -> float:
    # POT's rule is the L2 norm of one marginal's error; an even error has L1 = sqrt(size) L2.
    return 3 * RULE / size**0.5


@dataclass(frozen=True)
class Method:
    """A row of the table: a solver alone, a whole loss, or both."""

    name: str
    solve: Solve | None = None
    whole: Whole | None = None
    first_knob: Callable[[Problem], float] = lambda problem: RULE
    fixed_iterations: bool = False  # the knob is a number of iterations
    compiles: bool = False  # the first call of a shape is not timed
    records: bool = False  # autograd keeps every iteration: its memory is bounded
    is_peer: bool = True


def whole_of(solve: Solve) -> Whole:
    """Cost, solver and backward to x; the plan is a constant unless the solver brings a loss."""

    def whole(problem: Problem, epsilon: float, knob: float) -> Solved:
        x = problem.x.detach().requires_grad_()
        cost = cost_of(x, problem.y)
        solved = solve(problem, cost, epsilon, knob)
        loss = (solved.plan.detach() * cost).sum() if solved.loss is None else solved.loss
        loss.backward()
        return replace(solved, plan=solved.plan.detach(), gradient=x.grad)

    return whole


def pot_loop(method: str) -> Solve:
    """ot.sinkhorn, one problem at a time at its own size."""

    def solve(problem: Problem, cost: Tensor, epsilon: float, knob: float) -> Solved:
        import ot

        cost, plan, iterations = cost.detach(), torch.zeros_like(cost), 0
        for k, (n, m) in enumerate(problem.sizes):
            plan[k, :n, :m], log = ot.sinkhorn(
                problem.a[k, :n],
                problem.b[k, :m],
                cost[k, :n, :m],
                epsilon,
                method=method,
                numItermax=MAX_ITER,
                stopThr=knob,
                warn=False,
                log=True,
            )
            iterations = max(iterations, log["niter"] + 1)
        return Solved(plan, iterations=iterations)

    return solve


def pot_batch(method: str, grad: str) -> Solve:
    """ot.batch.solve_batch; its default grad, "envelope", records every iteration for autograd."""

    def solve(problem: Problem, cost: Tensor, epsilon: float, knob: float) -> Solved:
        import ot

        result = ot.batch.solve_batch(
            cost,
            epsilon,
            problem.a,
            problem.b,
            max_iter=MAX_ITER,
            tol=knob,
            method=method,
            grad=grad,
        )
        loss = None if grad == "detach" else result.value_linear.sum()
        return Solved(result.plan, iterations=result.log["n_iter"] + 1, loss=loss)

    return solve


def flushed(solve: Solve) -> Solve:
    """The same with denormal numbers flushed to zero: a kernel exp(-C / epsilon) is full of them.

    torch sets this for the calling thread alone.
    """

    def run(problem: Problem, cost: Tensor, epsilon: float, knob: float) -> Solved:
        torch.set_flush_denormal(True)
        try:
            return solve(problem, cost, epsilon, knob)
        finally:
            torch.set_flush_denormal(False)

    return run


def geomloss_solve(problem: Problem, cost: Tensor, epsilon: float, knob: float) -> Solved:
    """geomloss.ot.solve_batch: a fixed number of symmetric updates while epsilon is lowered."""
    from geomloss import ot

    result = ot.solve_batch(cost, reg=epsilon, a=problem.a, b=problem.b, max_iter=int(knob))
    return Solved(result.plan, iterations=int(knob))


def geomloss_whole(problem: Problem, epsilon: float, knob: float) -> Solved:
    """geomloss.SamplesLoss on such a schedule: the autograd of ot.solve gives twice the gradient."""
    from geomloss import SamplesLoss

    x = problem.x.detach().requires_grad_()
    loss = SamplesLoss(
        "sinkhorn",
        p=1,
        blur=epsilon,
        cost=cost_of,
        diameter=2.0,
        scaling=(epsilon / 2) ** (1 / max(int(knob) - 2, 1)),
        debias=False,
        potentials=True,
        backend="tensorized",
    )
    f, g = loss(problem.a, x, problem.b, problem.y)
    ((problem.a * f).sum() + (problem.b * g).sum()).backward()  # SamplesLoss's own value
    return Solved(potentials=(f.detach(), g.detach()), iterations=int(knob), gradient=x.grad)


@functools.cache
def _ott(start: int, value: float) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The compiled functions: (cost, a, b, …) -> (plan, iterations), (x, y, a, b, …) -> gradient."""
    import jax
    import jax.numpy as jnp
    from ott.geometry import geometry
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import acceleration, sinkhorn

    schedule = acceleration.Momentum(start=start, value=value)

    def run(cost: Any, a: Any, b: Any, epsilon: Any, tol: Any) -> Any:
        solver = sinkhorn.Sinkhorn(threshold=tol, max_iterations=MAX_ITER, momentum=schedule)
        geom = geometry.Geometry(cost_matrix=cost, epsilon=epsilon)
        return solver(linear_problem.LinearProblem(geom, a=a, b=b))

    def solve(cost: Any, a: Any, b: Any, epsilon: Any, tol: Any) -> Any:
        def one(arguments: Any) -> Any:
            out = run(*arguments, epsilon, tol)
            return out.matrix, out.n_iters

        return jax.lax.map(one, (cost, a, b))

    def unit(x: Any) -> Any:
        return x / jnp.sqrt(jnp.maximum((x * x).sum(-1, keepdims=True), 1e-24))

    def loss(x: Any, y: Any, a: Any, b: Any, epsilon: Any, tol: Any) -> Any:
        def one(arguments: Any) -> Any:
            out = run(*arguments, epsilon, tol)
            return out.ent_reg_cost, (out.matrix, out.n_iters)

        cost = 1 - unit(x) @ unit(y).swapaxes(1, 2)
        values, aside = jax.lax.map(one, (cost, a, b))
        return values.sum(), aside

    return jax.jit(solve), jax.jit(jax.value_and_grad(loss, has_aux=True))


@functools.lru_cache(maxsize=8)
def _to_jax(*tensors: Tensor) -> tuple[Any, ...]:
    """Copies in JAX, made once: their time is nobody's."""
    import jax.numpy as jnp

    return tuple(jnp.asarray(tensor.detach().numpy()) for tensor in tensors)


def ott(start: int = 0, value: float = 1.0) -> tuple[Solve, Whole]:
    """OTT-JAX in log-sum-exp mode, its gradient by Danskin's theorem, as it is by default.

    Updates are over-relaxed by `value`, and from iteration `start` on, if it is not 0, by a factor
    that OTT takes from the errors so far (20 is the first with two errors to compare). One problem
    after another under lax.map: under vmap each waits for the slowest, and the error is computed at
    every iteration.
    """

    def solve(problem: Problem, cost: Tensor, epsilon: float, knob: float) -> Solved:
        plan, iterations = _ott(start, value)[0](
            *_to_jax(cost, problem.a, problem.b), epsilon, knob
        )
        plan.block_until_ready()
        return Solved(torch.from_dlpack(plan), iterations=int(iterations.max()))

    def whole(problem: Problem, epsilon: float, knob: float) -> Solved:
        arrays = _to_jax(problem.x, problem.y, problem.a, problem.b)
        (_, (plan, iterations)), gradient = _ott(start, value)[1](*arrays, epsilon, knob)
        gradient.block_until_ready()
        plan, gradient = torch.from_dlpack(plan), torch.from_dlpack(gradient)
        return Solved(plan, iterations=int(iterations.max()), gradient=gradient)

    return solve, whole


def flash_solve(problem: Problem, cost: Tensor, epsilon: float, knob: float) -> Solved:
    """flash-sinkhorn never forms a cost, so there is no solver to time on one."""
    raise NotImplementedError("flash-sinkhorn takes points, not a cost")


def flash_whole(problem: Problem, epsilon: float, knob: float) -> Solved:
    """flash-sinkhorn on unit vectors, where |x - y|^2 / 2 = 1 - cos; its own check refuses a CPU."""
    from flash_sinkhorn import SamplesLoss

    x = problem.x.detach().requires_grad_()
    unit = functools.partial(torch.nn.functional.normalize, dim=2)
    loss = SamplesLoss(
        half_cost=True, use_epsilon_scaling=False, eps=epsilon, n_iters=MAX_ITER, threshold=knob
    )
    loss(problem.a, unit(x), problem.b, unit(problem.y)).sum().backward()
    return Solved(gradient=x.grad)


def peers() -> list[Method]:
    """Every peer's rows."""

    def pot_first(problem: Problem) -> float:
        return _tolerance(problem, problem.b.shape[1])

    def pot_batch_first(problem: Problem) -> float:
        return _tolerance(problem, problem.a.shape[1])

    methods = []
    for name, solve in (
        ("pot-loop-log", pot_loop("sinkhorn_log")),
        ("pot-loop-kernel", pot_loop("sinkhorn")),
    ):
        methods.append(Method(name, solve, whole_of(solve), pot_first))
    default = whole_of(pot_batch("log_sinkhorn", "envelope"))
    methods.append(Method("pot-batch-log", None, default, pot_batch_first, records=True))
    kernel = pot_batch("sinkhorn", "detach")
    for name, solve in (
        ("pot-batch-log-detached", pot_batch("log_sinkhorn", "detach")),
        ("pot-batch-kernel", kernel),
        ("pot-batch-kernel-flushed", flushed(kernel)),
    ):
        methods.append(Method(name, solve, whole_of(solve), pot_batch_first))
    methods.append(
        Method("geomloss", geomloss_solve, geomloss_whole, lambda _: 25, fixed_iterations=True)
    )
    for name, pair in (
        ("ott", ott()),
        ("ott-momentum-1.5", ott(value=1.5)),
        ("ott-adaptive-20", ott(start=20)),
        ("ott-adaptive-40", ott(start=40)),
    ):
        methods.append(Method(name, *pair, compiles=True))
    methods.append(Method("flash-sinkhorn", flash_solve, flash_whole))
    return methods
