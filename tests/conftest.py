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


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    """The command line and the benchmarks set handlers and levels; leave the other tests theirs."""
    root, own = logging.getLogger(), logging.getLogger("otreg")
    before = (root.handlers[:], root.level, own.level)
    yield
    root.handlers[:], root.level, own.level = before


@pytest.fixture
def unchecked_shapes() -> Iterator[None]:
    """Leave shapes to the package's own errors, which users see."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
