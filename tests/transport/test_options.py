"""Options that cannot be meant are refused before any tensor is looked at."""

import math

import numpy as np
import pytest

from otreg.transport import METHODS, check_options

pytestmark = pytest.mark.usefixtures("unchecked_shapes")  # users meet the messages, not the checker


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be a finite number > 0, got 0.0; try 0.05"),
        ({"epsilon": -1}, "epsilon must be a finite number > 0, got -1"),
        ({"epsilon": math.nan}, "epsilon must be a finite number > 0, got nan"),
        ({"epsilon": math.inf}, "epsilon must be a finite number > 0, got inf"),
        ({"epsilon": "0.05"}, "epsilon must be a finite number > 0, got '0.05'"),
        ({"tol": 0.0}, "tol must be a finite number > 0, got 0.0; try 1e-3"),
        ({"tol": math.inf}, "tol must be a finite number > 0, got inf"),
        ({"tol": math.nan}, "tol must be a finite number > 0, got nan"),
        ({"max_iter": 0}, "max_iter must be a whole number >= 1, got 0; try 1000"),
        ({"max_iter": math.inf}, "max_iter must be a whole number >= 1, got inf"),
        ({"max_iter": 10.5}, "max_iter must be a whole number >= 1, got 10.5"),
        ({"rho_a": -1.0}, "rho_a must be a finite number >= 0, got -1.0; pass None"),
        ({"rho_b": math.inf}, "rho_b must be a finite number >= 0, got inf; pass None"),
        ({"rho_b": math.nan}, "rho_b must be a finite number >= 0, got nan"),
        (
            {"gradient": "magic"},
            "gradient must be one of envelope, unrolled, implicit, got 'magic'",
        ),
        ({"method": "fast"}, "method must be one of auto, .*got 'fast'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_options(**({"epsilon": 0.1} | options))


@pytest.mark.parametrize("method", ["compiled", "triton", "newton"])
def test_a_method_without_an_unrolled_gradient_is_refused_with_it(method: str) -> None:
    with pytest.raises(
        ValueError, match=f"method '{method}' has no unrolled gradient; pass one of"
    ):
        check_options(epsilon=0.1, gradient="unrolled", method=method)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_the_other_gradients(method: str) -> None:
    for gradient in ("envelope", "implicit"):
        check_options(epsilon=0.1, gradient=gradient, method=method)


def test_numbers_of_numpy_are_numbers() -> None:
    check_options(epsilon=np.float32(0.1), tol=np.float64(1e-3), max_iter=np.int64(9), rho_b=0)
