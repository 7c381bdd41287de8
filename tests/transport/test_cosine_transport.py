"""The fused loss equals cost, solver and autograd put together, and finite differences."""

import sys

import pytest
import torch
from torch import Tensor

from otreg.transport import CosineTransport, cosine_cost, cosine_transport, sinkhorn

fused = sys.modules["otreg.transport.cosine_transport"]  # the function hides its module's name
GRADIENTS = ["envelope", "implicit", "unrolled"]
RELAXATIONS = [(None, None), (None, 0.3), (0.2, 0.5)]


def problem(batch: int = 2, n: int = 6, m: int = 4, dim: int = 5) -> list[Tensor]:
    x, y = torch.randn(batch, n, dim).double(), torch.randn(batch, m, dim).double()
    a, b = torch.rand(batch, n).double() + 0.1, torch.rand(batch, m).double() + 0.1
    return [x, y, a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)]


def padded(arguments: list[Tensor], rows: int, columns: int, fill: float) -> list[Tensor]:
    x, y, a, b = arguments
    pad = torch.nn.functional.pad
    return [
        pad(x, (0, 0, 0, rows), value=fill),
        pad(y, (0, 0, 0, columns), value=fill),
        pad(a, (0, rows)),
        pad(b, (0, columns)),
    ]


def loss_of(moved: CosineTransport, weight: Tensor | None) -> Tensor:
    share = torch.arange(1.0, 1 + len(moved.cost)).to(moved.cost)
    loss = (share * moved.cost).sum() + 0.5 * moved.value.sum()
    return loss if weight is None else loss + (moved.plan * weight).sum()


def gradients(arguments: list[Tensor], weight: Tensor | None, **options) -> list[Tensor]:
    x, y = (z.clone().requires_grad_() for z in arguments[:2])
    loss_of(cosine_transport(x, y, *arguments[2:], **options), weight).backward()
    return [x.grad, y.grad]


@pytest.mark.parametrize(("rho_a", "rho_b"), RELAXATIONS)
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_it_equals_its_parts(gradient: str, rho_a: float | None, rho_b: float | None) -> None:
    arguments = problem()
    prior = torch.rand(2, 6, 4).double()
    weight = None if gradient == "envelope" else torch.randn(2, 6, 4).double()
    options = {"epsilon": 0.1, "tol": 1e-12, "max_iter": 5000, "gradient": gradient}
    options |= {"rho_a": rho_a, "rho_b": rho_b}
    fused = gradients(arguments, weight, prior=prior, **options)
    x, y = (z.clone().requires_grad_() for z in arguments[:2])
    cost = cosine_cost(x, y)
    result = sinkhorn(cost + prior, *arguments[2:], **options)
    parts = CosineTransport((result.plan * cost).sum((1, 2)), result.value, result.plan, result)
    loss_of(parts, weight).backward()
    torch.testing.assert_close(fused, [x.grad, y.grad], atol=1e-9, rtol=1e-7)
    moved = cosine_transport(*arguments, prior=prior, **options)
    torch.testing.assert_close(moved.cost, parts.cost.detach())
    torch.testing.assert_close(moved.value, parts.value.detach())


@pytest.mark.parametrize("gradient", ["implicit", "unrolled"])
def test_gradient_of_cost_and_plan_is_that_of_finite_differences(gradient: str) -> None:
    x, y, a, b = problem(batch=1, n=4, m=3)
    weight = torch.randn(1, 4, 3).double()

    def loss(x: Tensor, y: Tensor) -> Tensor:
        options = {"epsilon": 0.2, "tol": 1e-13, "max_iter": 5000, "gradient": gradient}
        moved = cosine_transport(x, y, a, b, **options)
        return moved.cost.sum() + (moved.plan * weight).sum()

    assert torch.autograd.gradcheck(loss, (x.requires_grad_(), y.requires_grad_()), atol=1e-6)


def test_gradient_of_the_value_is_that_of_finite_differences() -> None:
    x, y, a, b = problem(batch=1, n=4, m=3)

    def value(x: Tensor, y: Tensor) -> Tensor:
        return cosine_transport(x, y, a, b, epsilon=0.2, rho_b=0.5, tol=1e-13, max_iter=5000).value

    assert torch.autograd.gradcheck(value, (x.requires_grad_(), y.requires_grad_()), atol=1e-6)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("fill", [0.0, 1e6, float("nan"), float("inf")])
@pytest.mark.parametrize("padding", [(1, 1), (9, 7)])
def test_padding_changes_nothing_and_gets_no_gradient(
    padding: tuple[int, int], fill: float, gradient: str
) -> None:
    arguments = problem()
    weight = None if gradient == "envelope" else torch.randn(2, 6, 4).double()
    options = {"epsilon": 0.1, "tol": 1e-12, "max_iter": 5000, "gradient": gradient}
    plain = gradients(arguments, weight, **options)
    wide = None
    if weight is not None:
        wide = torch.nn.functional.pad(weight, (0, padding[1], 0, padding[0]), value=3.0)
    x_grad, y_grad = gradients(padded(arguments, *padding, fill), wide, **options)
    torch.testing.assert_close([x_grad[:, :6], y_grad[:, :4]], plain, atol=1e-9, rtol=1e-7)
    assert bool((x_grad[:, 6:] == 0).all())
    assert bool((y_grad[:, 4:] == 0).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_vectors_are_multiplied_in_float32(dtype: torch.dtype) -> None:
    x, y, a, b = problem(dim=64)
    x, y = x.to(dtype), y.to(dtype)
    half = x.clone().requires_grad_()
    full = x.float().requires_grad_()
    moved = cosine_transport(half, y, a, b, epsilon=0.05)
    exact = cosine_transport(full, y.float(), a, b, epsilon=0.05)
    torch.testing.assert_close(moved.cost, exact.cost, atol=1e-6, rtol=1e-5)
    moved.cost.sum().backward()
    exact.cost.sum().backward()
    assert half.grad.dtype == dtype
    torch.testing.assert_close(half.grad.float(), full.grad, atol=1e-3, rtol=1e-2)


def test_ragged_products_leave_padding_out_and_change_nothing(monkeypatch) -> None:
    arguments = padded(problem(), 20, 9, float("nan"))
    options = {"epsilon": 0.1, "tol": 1e-12, "max_iter": 5000}
    whole = gradients(arguments, None, **options)
    monkeypatch.setattr(fused, "_MIN_PRODUCT", 0)
    assert fused._sizes_of(*arguments[2:], 5) == [(6, 4), (6, 4)]
    torch.testing.assert_close(gradients(arguments, None, **options), whole)


def test_only_what_needs_a_gradient_gets_one() -> None:
    x, y, a, b = problem()
    moved = cosine_transport(x, y, a, b, epsilon=0.1)
    assert not moved.cost.requires_grad
    moved = cosine_transport(x.requires_grad_(), y, a, b, epsilon=0.1)
    assert moved.cost.requires_grad
    assert not moved.plan.requires_grad
    assert not moved.result.plan.requires_grad
    moved.cost.sum().backward()
    assert y.grad is None


def test_it_keeps_no_copy_of_the_vectors() -> None:
    x, y, a, b = (z.float() for z in problem(batch=4, n=300, m=10, dim=512))
    x.requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda z: saved.append(z) or z, lambda z: z):
        loss = cosine_transport(x, y, a, b, epsilon=0.05).cost.sum()
    of_its_size = [z for z in saved if z.numel() >= x.numel()]
    assert [z.data_ptr() for z in of_its_size] == [x.data_ptr()]
    loss.backward()
    assert bool(torch.isfinite(x.grad).all())


def test_what_the_solver_says_holds_no_graph_and_no_memory_of_the_plan() -> None:
    x, y, a, b = problem()
    moved = cosine_transport(x.requires_grad_(), y, a, b, epsilon=0.05)
    assert moved.value.requires_grad
    said = vars(moved.result).values()
    assert not any(part.requires_grad for part in said if isinstance(part, Tensor))
    moved.plan.mul_(9)
    torch.testing.assert_close(moved.result.plan.sum((1, 2)), torch.ones(len(a)).to(a))
    moved.cost.sum().backward()


def test_an_unknown_gradient_is_refused() -> None:
    with pytest.raises(ValueError, match="gradient must be one of envelope, unrolled, implicit"):
        cosine_transport(*problem(), epsilon=0.05, gradient="implict")


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        (
            "x",
            (6, 5),
            r"x must be \(batch, n, dim\), got \(6, 5\); add a batch axis with unsqueeze",
        ),
        (
            "y",
            (4, 5),
            r"y must be \(batch, m, dim\), got \(4, 5\); add a batch axis with unsqueeze",
        ),
        ("y", (2, 4, 3), r"y must be \(2, 4, 5\) to match x \(2, 6, 5\), got \(2, 4, 3\)"),
        ("y", (1, 4, 5), r"y must be \(2, 4, 5\) to match x \(2, 6, 5\), got \(1, 4, 5\)"),
        ("a", (6,), r"a must be \(2, 6\) to match x \(2, 6, 5\), got \(6,\)"),
        ("b", (2, 6), r"b must be \(2, 4\) to match x .* and y .*, got \(2, 6\)"),
        ("prior", (6, 4), r"prior must be \(2, 6, 4\) to match x .* and y .*, got \(6, 4\)"),
        ("init", (4,), r"init must be \(2, 4\) to match x .* and y .*, got \(4,\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(name: str, wrong: tuple, message: str) -> None:
    arguments = dict(zip("xyab", problem(), strict=True))
    arguments[name] = torch.full(wrong, 0.2).double()
    with pytest.raises(ValueError, match=message):
        cosine_transport(**arguments, epsilon=0.05)


@pytest.mark.usefixtures("unchecked_shapes")
def test_whole_numbers_are_refused_as_vectors() -> None:
    x, y, a, b = problem()
    with pytest.raises(ValueError, match=r"x must hold floating-point numbers, got torch.int64"):
        cosine_transport(x.long(), y, a, b, epsilon=0.05)


def test_an_infinite_epsilon_is_refused() -> None:
    with pytest.raises(ValueError, match="epsilon must be a finite number > 0, got inf"):
        cosine_transport(*problem(), epsilon=float("inf"))
