"""Linear systems with positive definite matrices, in batches."""

# ruff: noqa: F722
import math

import torch
from torch import Tensor

from otreg.shapes import Float


def solve_positive(
    system: Float[Tensor, "batch m m"], right: Float[Tensor, "batch m"]
) -> Float[Tensor, "batch m"]:
    """Solve by Cholesky's factors; NaN where a matrix is not positive definite.

    `torch.linalg.solve` hangs, or fails, on batches of matrices larger than 150 where torch has
    several threads (pytorch issue 142815; seen with torch 2.13).
    """
    factor, info = torch.linalg.cholesky_ex(system)
    solved = torch.cholesky_solve(right.unsqueeze(2), factor).squeeze(2)
    return torch.where((info == 0).unsqueeze(1), solved, math.nan)
