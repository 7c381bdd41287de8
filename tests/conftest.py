"""Shapes are checked against their annotations in every test; torch runs on the threads it is given."""

import logging
import os
from collections.abc import Iterator

import jaxtyping
import pytest

# Before anything imports the package: the hook rewrites these modules as they are loaded.
jaxtyping.install_import_hook(["otreg.transport", "otreg.objectives"], "shape_checks.check")

import torch  # noqa: E402

# Triton reads this as it is imported, so no test can; without a GPU its kernels run interpreted.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


_LOGGERS = (logging.getLogger(), logging.getLogger("otreg"))
_LEVELS = [logger.level for logger in _LOGGERS]


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    """The command line and the benchmarks set handlers and levels; leave the other tests pytest's.

    A module's fixture may have run the command line before any test did, so what stands when a test
    begins says nothing.
    """
    yield
    root = _LOGGERS[0]
    root.handlers[:] = [h for h in root.handlers if type(h).__module__.startswith("_pytest.")]
    for logger, level in zip(_LOGGERS, _LEVELS, strict=True):
        logger.setLevel(level)


@pytest.fixture
def unchecked_shapes() -> Iterator[None]:
    """Leave shapes to the package's own errors, which users see."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
