"""The ablation's controls make the plans that they are named after."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from oracles import cosine, sinkhorn_loop
from otreg import OTReg, SpeechTextPair
from otreg.objectives import build_objective

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from controls import NearestToken, PositionsAlone


def make_pair() -> SpeechTextPair:
    table = torch.randn(12, 6, dtype=torch.float64)
    ids = torch.tensor([[4, 2, 4, 1], [7, 3, 3, 0]])
    return SpeechTextPair(
        torch.randn(2, 9, 6, dtype=torch.float64).requires_grad_(),
        table[ids],
        text_mask=torch.tensor([[True] * 4, [True, True, True, False]]),
        token_ids=ids,
        embedding_table=table,
    )


def test_positions_alone_is_transport_at_the_cost_of_time() -> None:
    pair = make_pair()
    out = PositionsAlone(position_prior=0.3, epsilon=0.05, tol=1e-9, max_iter=5000)(pair)
    for k, belongs in enumerate(([0, 1, 0, 2], [0, 1, 1])):
        m = max(belongs) + 1
        cost = np.zeros((9, m))
        for i in range(9):
            for j in range(m):
                places = [t for t, target in enumerate(belongs) if target == j]
                apart = ((i + 0.5) / 9 - (np.array(places) + 0.5) / len(belongs)) ** 2
                cost[i, j] = 0.3 * apart.min() / 0.2**2
        plan = sinkhorn_loop(cost, np.full(9, 1 / 9), np.full(m, 1 / m), 0.05)
        np.testing.assert_allclose(out.plan[k, :, :m], plan, atol=1e-6)


def test_the_nearest_token_is_a_softmax_over_targets() -> None:
    pair = make_pair()
    out = NearestToken(epsilon=0.05)(pair)
    for k in range(2):
        targets = out.targets.embeddings[k][out.targets.mask[k]].numpy()
        cost = np.array(
            [[1 - cosine(f, g) for g in targets] for f in pair.speech[k].detach().numpy()]
        )
        rows = np.exp(-cost / 0.05)
        rows /= rows.sum(1, keepdims=True)
        np.testing.assert_allclose(9 * out.plan[k, :, : len(targets)], rows, atol=1e-5)


@pytest.mark.parametrize("name", ["PositionsAlone", "NearestToken"])
def test_controls_are_objectives_as_any_other(name: str) -> None:
    pair = make_pair()
    options = {"temperature": 0.1}
    control = build_objective(f"controls:{name}", options, dim=6, vocab_size=12).objective
    out = control(pair)
    out.loss.sum().backward()
    assert out.loss.shape == (2,)
    assert float(pair.speech.grad.abs().max()) > 0
    assert control.needs_vocabulary


def test_a_control_scores_as_otreg_does() -> None:
    pair = make_pair()
    weak = OTReg(position_prior=0.1, position_width=0.2 * 1e-3, epsilon=0.05, tol=1e-6)
    strong = PositionsAlone(position_prior=1e5, epsilon=0.05, tol=1e-6)
    torch.testing.assert_close(strong(pair).loss, weak(pair).loss, atol=1e-3, rtol=1e-3)
