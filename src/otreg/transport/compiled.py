"""The solver in C++ (csrc/sinkhorn.cpp), for the CPU; built on first use where there is a compiler."""

# ruff: noqa: F722
import ctypes
import functools
import hashlib
import logging
import os
import platform
import tempfile
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from otreg._shapes import Float, Int

logger = logging.getLogger(__name__)

_SOURCE = Path(__file__).parent / "csrc" / "sinkhorn.cpp"
# Sums may be reordered into vectors, but NaN and infinity keep their meaning.
_FLAGS = ["-O3", "-march=native", "-ffast-math", "-fno-finite-math-only", "-std=c++17"]
if platform.machine() == "x86_64":
    _FLAGS.append("-mprefer-vector-width=512")  # compilers choose 256 where 512 is to be had
_ENTRY = {torch.float32: "otreg_sinkhorn_float32", torch.float64: "otreg_sinkhorn_float64"}


def is_available() -> bool:
    """Say whether the compiled solver can be used here; the first call may build it."""
    return _library() is not None


def solve_compiled(
    cost: Float[Tensor, "batch n m"],
    a: Float[Tensor, "batch n"],
    b: Float[Tensor, "batch m"],
    g: Float[Tensor, "batch m"],
    epsilon: float,
    tau_a: float,
    tau_b: float,
    tol: float,
    max_iter: int,
) -> tuple[
    Float[Tensor, "batch n"],
    Float[Tensor, "batch m"],
    Float[Tensor, "batch n m"],
    Int[Tensor, " batch"],
    Float[Tensor, " batch"],
]:
    """Solve every problem to the fixed point of the sweeps that `otreg.transport.sinkhorn` states.

    Each problem is solved by itself, at its own size, as many at a time as torch has threads.

    Args:
        cost: (batch, n, m) float32 or float64 on the CPU; anything where a mass is zero.
        a: (batch, n) row masses of the same dtype.
        b: (batch, m) column masses of the same dtype.
        g: (batch, m) column potentials to start from.
        epsilon: entropic regularisation.
        tau_a: rho_a / (rho_a + epsilon); 1 when rows are balanced.
        tau_b: the same for columns.
        tol: marginal error at which a problem stops.
        max_iter: the most sweeps.

    Returns:
        f (batch, n), g (batch, m), plan (batch, n, m), num_iters (batch,), marginal error (batch,).

    Raises:
        RuntimeError: there is no compiled solver here; see `is_available`.
    """
    library = _library()
    if library is None:
        raise RuntimeError("the compiled solver could not be built; see the log for the reason")
    batch, n, m = cost.shape
    inputs = [x.contiguous() for x in (cost, a, b, g)]
    f, potentials, plan = torch.zeros_like(a), torch.zeros_like(b), torch.zeros_like(inputs[0])
    num_iters = torch.zeros(batch, dtype=torch.long)
    error = torch.zeros(batch, dtype=cost.dtype)
    getattr(library, _ENTRY[cost.dtype])(
        *(_pointer(x) for x in inputs),
        *(ctypes.c_int64(size) for size in (batch, n, m)),
        *(ctypes.c_double(value) for value in (epsilon, tau_a, tau_b, tol)),
        ctypes.c_int64(max_iter),
        ctypes.c_int64(torch.get_num_threads()),
        *(_pointer(x) for x in (f, potentials, plan, num_iters, error)),
    )
    return f, potentials, plan, num_iters, error


def _pointer(x: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.data_ptr())


@functools.cache
def _library() -> ctypes.CDLL | None:
    """Load the built solver; build it first where this machine has not yet."""
    key = hashlib.sha256(_SOURCE.read_bytes() + repr((_FLAGS, _processor())).encode()).hexdigest()
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions"
    path = Path(root) / f"otreg_sinkhorn_{key[:16]}.so"
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):  # given back even by a process that is killed
                if not path.is_file():
                    _build(path)
        return ctypes.CDLL(str(path))
    except (OSError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        logger.info("the compiled solver is not available, torch's is used: %s", reason[0])
        return None


def _build(path: Path) -> None:
    """Build through torch in a folder of our own, and move the library to its place in one step.

    Torch's own lock, which lies in that folder, would block for ever after a killed build.
    """
    from torch.utils import cpp_extension

    logger.info("building the compiled solver (once on this machine): %s", path)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        cpp_extension.load(
            "otreg_sinkhorn",
            [str(_SOURCE)],
            extra_cflags=_FLAGS,
            build_directory=folder,
            is_python_module=False,
        )
        (Path(folder) / "otreg_sinkhorn.so").replace(path)


def _processor() -> str:
    """What the code is compiled for: home folders are shared between unlike machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
