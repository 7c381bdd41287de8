"""Positive definite systems, and what must not hang for their sake."""

import subprocess
import sys

import pytest
import torch

from otreg.transport.cholesky import solve_positive


def test_the_answer_solves_the_system() -> None:
    half = torch.randn(3, 9, 5, dtype=torch.float64)
    system = torch.eye(5, dtype=torch.float64) + half.mT @ half
    right = torch.randn(3, 5, dtype=torch.float64)
    solved = solve_positive(system, right)
    torch.testing.assert_close((system @ solved.unsqueeze(2)).squeeze(2), right)


def test_only_what_is_not_positive_definite_is_nan() -> None:
    system = torch.stack([2 * torch.eye(3), torch.diag(torch.tensor([1.0, -1, 1])), torch.eye(3)])
    system[2, 0, 0] = torch.nan
    solved = solve_positive(system, torch.ones(3, 3))
    assert torch.equal(solved[0], torch.full((3,), 0.5))
    assert bool(solved[1:].isnan().all())


LARGE_BATCH = """
import torch
from otreg import OTReg, SpeechTextPair, sinkhorn

torch.set_num_threads(2)
torch.manual_seed(0)
cost = torch.rand(3, 300, 180)
masses = torch.full((3, 300), 1 / 300), torch.full((3, 180), 1 / 180)
newton = sinkhorn(cost, *masses, epsilon=0.02, method="newton")
assert bool(newton.converged.all())
speech = torch.randn(3, 300, 8, requires_grad=True)
pair = SpeechTextPair(speech, torch.randn(3, 180, 8), pad_embedding=torch.randn(8))
OTReg.paper(unique_threshold=None)(pair).loss.sum().backward()
assert bool(speech.grad.isfinite().all())
for k in range(3):
    alone = sinkhorn(cost[k : k + 1], *(x[:1] for x in masses), epsilon=0.02, method="newton")
    assert float((alone.plan - newton.plan[k]).abs().sum()) < 1e-3
"""


def test_batches_of_large_systems_are_solved_on_several_threads() -> None:
    try:  # torch.linalg.solve would hang here
        subprocess.run([sys.executable, "-c", LARGE_BATCH], check=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.fail("a batch of systems of 180 unknowns is not solved in two minutes")
