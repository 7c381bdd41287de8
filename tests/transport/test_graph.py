"""torch.compile takes a loss on a transport as one graph, with the values and gradients of eager mode.

In a process of its own: the shape checks that conftest.py puts around the package are not for graphs.
The backend is "aot_eager", which makes the same graphs as the default one and does not compile them.
"""

import subprocess
import sys

import pytest
import torch

import otreg.transport  # whose operation is torch.ops.otreg.sinkhorn

PREPARED = """
import torch
from otreg.transport import cosine_transport, sinkhorn

torch.manual_seed(0)
torch.set_num_threads(1)
x, y = torch.randn(2, 9, 8), torch.randn(2, 4, 8)
a, b = torch.full((2, 9), 1 / 9), torch.full((2, 4), 1 / 4)
a[1], x[1, 6:] = 0, float("nan")  # padding
a[1, :6] = 1 / 6

def compiled(function):
    return torch.compile(function, fullgraph=True, backend="aot_eager")

def gradients(function, *inputs):
    leaves = [z.clone().requires_grad_() for z in inputs]
    loss, *others = function(*leaves)
    loss.backward()
    return [loss.detach(), *others, *(leaf.grad for leaf in leaves)]

"""

COSINE = """
prior = torch.rand(2, 9, 4)
for gradient in ("envelope", "implicit"):
    def loss(x, y):
        options = {"epsilon": 0.05, "tol": 1e-5, "prior": prior, "gradient": gradient}
        moved = cosine_transport(x, y, a, b, **options)
        total = moved.cost.sum() + 0.5 * moved.value.sum()
        if gradient == "implicit":
            total = total + moved.plan.square().sum()
        return total, moved.plan.detach(), moved.result.f, moved.result.num_iters
    expected, got = gradients(loss, x, y), gradients(compiled(loss), x, y)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
"""

SINKHORN = """
cost = torch.rand(2, 9, 4)
for gradient in ("envelope", "implicit"):
    def loss(cost):
        result = sinkhorn(cost, a, b, epsilon=0.1, tol=1e-5, rho_b=0.4, gradient=gradient)
        total = result.value.sum()
        if gradient == "implicit":
            total = total + result.plan.square().sum()
        return total, result.plan.detach(), result.converged
    expected, got = gradients(loss, cost), gradients(compiled(loss), cost)
    torch.testing.assert_close(got, expected)

def solved(cost, a, gradient):
    return sinkhorn(cost, a, b, epsilon=0.1, gradient=gradient).plan

assert not compiled(solved)(cost.requires_grad_(), a, "envelope").requires_grad
for arguments, message in (((cost, -a, "envelope"), "a must hold finite masses >= 0"),
                           ((cost, a, "unrolled"), "cannot be part of a compiled graph")):
    try:
        compiled(solved)(*arguments)
        raise SystemExit("nothing was refused")
    except Exception as error:
        assert message in str(error), error
"""


def test_a_compiled_loss_is_the_eager_one() -> None:
    code = PREPARED + COSINE + SINKHORN
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_package_starts_no_compiler() -> None:
    code = "import sys, otreg.transport; print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("gradient", ["envelope", "implicit"])
def test_the_operation_is_what_torch_takes_it_for(gradient: str) -> None:
    cost = torch.rand(2, 5, 3, dtype=torch.float64, requires_grad=True)
    a, b = torch.full((2, 5), 1 / 5).double(), torch.full((2, 3), 1 / 3).double()
    options = (None, 0.1, 1e-9, 1000, None, 0.5, gradient, "auto")
    assert otreg.transport
    torch.library.opcheck(torch.ops.otreg.sinkhorn.default, (cost, a, b, *options))
