"""What every solver takes, and what it gives."""

# ruff: noqa: F722
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from otreg.shapes import Bool, Float, Int

# Arithmetic on numbers too small to be normal is a hundred times slower on a CPU, and they weigh
# nothing in a plan. Sweeps use no number below exp(LOG_TINY), whose products with each other's
# inverses stay in range; a plan's entries below LEAST, as a share of the mass, are made 0.
LOG_TINY = {torch.float32: -75.0, torch.float64: -650.0}
LEAST = {torch.float32: 1e-30, torch.float64: 1e-250}

_TENSORS = ("cost", "a", "b", "g")


def tau(rho: float | None, epsilon: float) -> float:
    """rho / (rho + epsilon), the share of an update that a relaxed side takes; 1 where balanced."""
    return 1.0 if rho is None else rho / (rho + epsilon)


@dataclass(frozen=True)
class Problem:
    """A padded batch of transport problems; `otreg.transport.sinkhorn` has checked it.

    Args:
        cost: (batch, n, m) float32 or float64; anything where a mass is zero.
        a: (batch, n) row masses of the same dtype; a zero mass is padding.
        b: (batch, m) column masses of the same dtype.
        g: (batch, m) column potentials to start from; 0 at padding.
        epsilon: entropic regularisation.
        tau_a: rho_a / (rho_a + epsilon), the share of an update that the rows take; 1 where balanced.
        tau_b: the same for the columns.
        tol: marginal error at which a problem stops.
        max_iter: the most sweeps (steps, for Newton).
    """

    cost: Float[Tensor, "batch n m"]
    a: Float[Tensor, "batch n"]
    b: Float[Tensor, "batch m"]
    g: Float[Tensor, "batch m"]
    epsilon: float
    tau_a: float
    tau_b: float
    tol: float
    max_iter: int

    def real(self) -> Bool[Tensor, "batch n m"]:
        """Where both masses are positive."""
        return (self.a > 0).unsqueeze(2) & (self.b > 0).unsqueeze(1)

    def part(self, index: Tensor, n: int, m: int) -> "Problem":
        """The problems at an index, their first n rows and m columns."""
        cost, a = self.cost[index, :n, :m], self.a[index, :n]
        return replace(self, cost=cost, a=a, b=self.b[index, :m], g=self.g[index, :m])

    def double(self) -> "Problem":
        """The same in float64."""
        return replace(self, **{name: getattr(self, name).double() for name in _TENSORS})


@dataclass(frozen=True)
class Solution:
    """A solver's answer; everything is 0 at padding.

    Args:
        f: (batch, n) row potentials.
        g: (batch, m) column potentials.
        plan: (batch, n, m).
        rows: (batch, n) sums of the plan's rows.
        columns: (batch, m) sums of its columns.
        num_iters: (batch,) sweeps (steps, for Newton) that each problem took.
        error: (batch,) marginal error as a share of the mass.
    """

    f: Float[Tensor, "batch n"]
    g: Float[Tensor, "batch m"]
    plan: Float[Tensor, "batch n m"]
    rows: Float[Tensor, "batch n"]
    columns: Float[Tensor, "batch m"]
    num_iters: Int[Tensor, " batch"]
    error: Float[Tensor, " batch"]

    @classmethod
    def of_plan(
        cls, f: Tensor, g: Tensor, plan: Tensor, num_iters: Tensor, error: Tensor
    ) -> "Solution":
        """With the marginals summed from the plan."""
        return cls(f, g, plan, plan.sum(2), plan.sum(1), num_iters, error)

    @classmethod
    def empty(cls, problem: Problem) -> "Solution":
        """All zero, to be filled by parts."""
        a, b = problem.a, problem.b
        num_iters = torch.zeros(len(a), dtype=torch.long, device=a.device)
        zeros = torch.zeros_like
        error = a.new_zeros(len(a))
        return cls(zeros(a), zeros(b), zeros(problem.cost), zeros(a), zeros(b), num_iters, error)

    def put(self, index: Tensor, part: "Solution") -> None:
        """Write the solutions of a `Problem.part` at its index, in place."""
        for name, value in vars(part).items():
            place = (index, *(slice(size) for size in value.shape[1:]))
            getattr(self, name)[place] = value
