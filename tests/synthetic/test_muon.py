"""Muon in float32: torch's steps without bfloat16's rounding."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from otreg.synthetic.muon import Muon, orthogonalise

SHAPES = [(24, 24), (24, 24), (48, 24), (24, 48)]


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in SHAPES]


def test_moves_as_torchs_muon_but_for_the_rounding_of_bfloat16() -> None:
    ours, theirs = parameters(), parameters()
    start = parameters()
    lr = 0.02
    steppers = [
        (Muon(ours, lr=lr), ours),
        (
            torch.optim.Muon(theirs, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
            theirs,
        ),
    ]
    for optimizer, moved in steppers:
        torch.manual_seed(1)
        for _ in range(5):
            for parameter in moved:
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
    for mine, other, before in zip(ours, theirs, start, strict=True):
        way = (other - before).norm()
        assert way > 0
        assert (mine - other).norm() < 0.02 * way  # bfloat16 rounds to 1 part in 256


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 48, 24), (2, 24, 48)])
def test_singular_values_come_near_one_and_the_vectors_stay(shape: tuple[int, ...]) -> None:
    torch.manual_seed(2)
    matrices = torch.randn(shape, dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    middle = left.mT @ orthogonalise(matrices) @ right.mT
    diagonal = middle.diagonal(dim1=-2, dim2=-1)
    assert torch.allclose(middle, torch.diag_embed(diagonal), atol=1e-9)
    large = diagonal[values > 0.05 * values.amax(-1, keepdim=True)]
    assert large.min() > 0.65
    assert large.max() < 1.25


def test_a_matrix_does_not_depend_on_those_it_is_stacked_with() -> None:
    together, alone = parameters(), parameters()[:1]
    for moved in (together, alone):
        optimizer = Muon(moved, lr=0.1)
        for number, parameter in enumerate(moved):
            parameter.grad = torch.full_like(parameter, number + 1.0) + torch.eye(*parameter.shape)
        optimizer.step()
    assert torch.allclose(together[0], alone[0], atol=1e-6)


def test_a_matrix_without_a_gradient_stays() -> None:
    first, second = parameters()[:2]
    before = second.detach().clone()
    first.grad = torch.randn_like(first)
    Muon([first, second], lr=0.1).step()
    assert torch.equal(second, before)


def test_a_zero_gradient_moves_nothing() -> None:
    matrix = parameters()[0]
    before = matrix.detach().clone()
    matrix.grad = torch.zeros_like(matrix)
    Muon([matrix], lr=0.1).step()
    assert torch.equal(matrix, before)


def test_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"takes matrices, got a parameter of shape \(3,\)"):
        Muon([nn.Parameter(torch.zeros(3))], lr=0.1)


def test_closures_are_refused() -> None:
    with pytest.raises(ValueError, match="takes no closure"):
        Muon(parameters(), lr=0.1).step(lambda: 0.0)
