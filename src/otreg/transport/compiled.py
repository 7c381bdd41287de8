"""The solver in C++ (csrc/), for the CPU; built on first use where there is a compiler."""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from otreg.transport.problem import Problem, Solution

logger = logging.getLogger(__name__)

_FOLDER = Path(__file__).parent / "csrc"
_NAMES = ("sinkhorn.cpp", "problem.h", "tiles.h", "momentum.h", "vectors.h")
_SOURCES = [_FOLDER / name for name in _NAMES]
# Not -ffast-math: a library so linked turns denormal numbers off in the whole process that loads it.
_FLAGS = ["-O3", "-march=native", "-std=c++17", "-ffp-contract=fast"]
_FLAGS += ["-fno-math-errno", "-fno-trapping-math"]
_INPUTS, _OUTPUTS = [ctypes.c_void_p] * 4, [ctypes.c_void_p] * 7
_SIZES, _SETTINGS, _BOUNDS = [ctypes.c_int64] * 3, [ctypes.c_double] * 4, [ctypes.c_int64] * 2
_ARGUMENTS = [*_INPUTS, *_SIZES, *_SETTINGS, *_BOUNDS, *_OUTPUTS]
_ENTRY = {torch.float32: "otreg_sinkhorn_float32", torch.float64: "otreg_sinkhorn_float64"}


def is_available() -> bool:
    """Say whether the compiled solver can be used here; the first call may build it."""
    return _library() is not None


def solve_compiled(problem: Problem) -> Solution:
    """Solve every problem to the fixed point of the sweeps that `otreg.transport.sinkhorn` states.

    Each problem is solved by itself, at its own size, as many at a time as torch has threads. The
    tensors must be on the CPU.

    Raises:
        RuntimeError: there is no compiled solver here; see `is_available`.
    """
    library = _library()
    if library is None:
        raise RuntimeError("the compiled solver could not be built; see the log for the reason")
    batch, n, m = problem.cost.shape
    dtype = problem.cost.dtype
    inputs = [x.contiguous() for x in (problem.cost, problem.a, problem.b, problem.g)]
    shapes = ((batch, n), (batch, m), (batch, n, m), (batch, n), (batch, m))
    sums = (torch.empty(batch, dtype=torch.long), torch.empty(batch, dtype=dtype))
    outputs = (*(torch.empty(shape, dtype=dtype) for shape in shapes), *sums)
    library[dtype](
        *(x.data_ptr() for x in inputs),
        *(batch, n, m),
        *(problem.epsilon, problem.tau_a, problem.tau_b, problem.tol),
        *(problem.max_iter, torch.get_num_threads()),
        *(x.data_ptr() for x in outputs),
    )
    return Solution(*outputs)


@functools.cache
def _library() -> dict[torch.dtype, Any] | None:
    """Load the built solver, a function for each dtype; build it where this machine has not yet."""
    key = hashlib.sha256(repr((_FLAGS, _processor())).encode())
    for source in _SOURCES:
        key.update(source.read_bytes())
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions"
    path = Path(root) / f"otreg_sinkhorn_{key.hexdigest()[:16]}.so"
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):  # given back even by a process that is killed
                if not path.is_file():
                    _build(path)
        return _load(path)
    except (OSError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        logger.info("the compiled solver is not available, torch's is used: %s", reason[0])
        return None


def _load(path: Path) -> dict[torch.dtype, Any]:
    library = ctypes.CDLL(str(path))
    solvers = {dtype: getattr(library, name) for dtype, name in _ENTRY.items()}
    for solver in solvers.values():
        solver.argtypes, solver.restype = _ARGUMENTS, None
    return solvers


def _build(path: Path) -> None:
    """Build through torch in a folder of our own, and move the library to its place in one step.

    Torch's own lock, which lies in that folder, would block for ever after a killed build.
    """
    logger.info("building the compiled solver (once on this machine): %s", path)
    try:
        _compile(path, ["-fopenmp"])
    except (RuntimeError, OSError):  # not every compiler has OpenMP, or the library of it
        _compile(path, [])


def _compile(path: Path, openmp: list[str]) -> None:
    from torch.utils import cpp_extension

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        cpp_extension.load(
            "otreg_sinkhorn",
            [str(_SOURCES[0])],
            extra_cflags=[*_FLAGS, *openmp],
            extra_ldflags=openmp,
            build_directory=folder,
            is_python_module=False,
        )
        built = next(Path(folder).glob("*.so"))  # a second build in a process gets another name
        built.replace(path)


def _processor() -> str:
    """What the code is compiled for: home folders are shared between unlike machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
