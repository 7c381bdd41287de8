"""Muon whose orthogonalisation runs in float32."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # a, b, c of the quintic a X + b X X'X + c X X'X X'X
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose update is orthogonalised, matrices of one shape together.

    `torch.optim.Muon` iterates in bfloat16, and so do the other published ones; on a processor
    without bfloat16 instructions that takes several times as long as float32 (docs/log.md,
    2026-11-22). The step is scaled to the root mean square of AdamW's (`match_rms_adamw` there).
    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.

    Args:
        matrices: parameters of two dimensions.
        lr: learning rate.
        momentum: weight of the past in the running mean of the gradients.

    Raises:
        ValueError: a parameter is not a matrix.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2:
                    raise ValueError(
                        f"Muon takes matrices, got a parameter of shape {tuple(parameter.shape)}: "
                        "give the others to AdamW"
                    )

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient."""
        if closure is not None:
            raise ValueError("Muon takes no closure: call backward() before step()")
        for group in self.param_groups:
            of_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    of_shape[parameter.shape].append(parameter)
            for (rows, columns), parameters in of_shape.items():
                updates = torch.stack([self._momentum(p, group["momentum"]) for p in parameters])
                rate = group["lr"] * 0.2 * max(rows, columns) ** 0.5
                for parameter, update in zip(parameters, orthogonalise(updates), strict=True):
                    parameter.sub_(update, alpha=rate)

    def _momentum(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["mean"] = torch.zeros_like(parameter)
        state["mean"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(state["mean"], momentum)  # type: ignore[union-attr]


def orthogonalise(matrices: Tensor) -> Tensor:
    """Bring the singular values of `matrices` (k, m, n) near 1, by Newton-Schulz.

    Near, not to: within about .7 to 1.2, which serves an optimiser as well as U V' itself (source
    as `Muon`). The iteration runs in the type of `matrices`.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
