import numpy as np
import torch

from oracles import cosine
from otreg.transport import cosine_cost, cosine_similarity, unit_vectors


def test_cost_is_one_minus_the_cosine_of_each_pair() -> None:
    x, y = torch.randn(2, 5, 7), torch.randn(2, 3, 7)
    cost = cosine_cost(x, y)
    for b in range(2):
        for i in range(5):
            for j in range(3):
                expected = 1 - cosine(x[b, i].double().numpy(), y[b, j].double().numpy())
                assert abs(float(cost[b, i, j]) - expected) < 1e-5


def test_zero_vectors_have_cost_one_and_a_bounded_gradient() -> None:
    x = torch.zeros(1, 1, 4, requires_grad=True)
    y = torch.tensor([[[1.0, 0.0, 0.0, 0.0]]])
    cost = cosine_cost(x, y)
    cost.sum().backward()
    assert float(cost.detach()) == 1.0
    assert x.grad is not None
    assert float(x.grad.abs().max()) <= 1000.5


def test_cost_is_float32_under_autocast_and_for_half_precision_inputs() -> None:
    x, y = torch.randn(1, 5, 64), torch.randn(1, 3, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cost = cosine_cost(x, y)
    assert cost.dtype == torch.float32
    assert torch.equal(cost, cosine_cost(x, y))
    assert cosine_cost(x.bfloat16(), y.bfloat16()).dtype == torch.float32
    assert cosine_cost(x.double(), y.double()).dtype == torch.float64


def test_gradient_of_the_similarity_is_exact() -> None:
    x = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    y = torch.randn(1, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(cosine_similarity, (x, y))


def test_similarity_broadcasts_a_shared_table() -> None:
    x, table = torch.randn(2, 5, 4), torch.randn(6, 4)
    shared = cosine_similarity(x, table)
    np.testing.assert_allclose(shared, cosine_similarity(x, table.expand(2, 6, 4)), atol=1e-6)


def test_unit_vectors_have_norm_one_in_the_dtype_that_is_asked_for() -> None:
    x = torch.randn(2, 5, 64)
    units = unit_vectors(x.bfloat16())
    assert units.dtype == torch.float32
    torch.testing.assert_close(units.norm(dim=-1), torch.ones(2, 5))
    assert unit_vectors(x, torch.float64).dtype == unit_vectors(x.double()).dtype == torch.float64
    assert torch.equal(unit_vectors(torch.zeros(1, 3)), torch.zeros(1, 3))
