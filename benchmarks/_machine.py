"""The machine of a benchmark: what it is, and bounds on the threads and memory that a run may use."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from otreg.versions import versions

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

PEERS = ("pot", "geomloss", "ott-jax", "jax", "flash-sinkhorn")


def machine(threads: int) -> dict[str, Any]:
    """Where the figures are from."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor()
    return {
        "cpu": cpu,
        "threads": threads,
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": versions(PEERS),
    }


def bound_threads(threads: int) -> None:
    """Give XLA, which is not loaded yet, as many threads as torch, and the CPU only."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ["NPROC"] = str(threads)
    if threads == 1:
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")


def keep_freed_memory() -> bool:
    """Tell glibc not to map large blocks one by one and not to give memory back; say if it did."""
    m_trim_threshold, m_mmap_max = -1, -4
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(m_mmap_max, 0) and mallopt(m_trim_threshold, 2**31 - 1))


def address_space() -> int:
    """Bytes that the process has mapped; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


@contextlib.contextmanager
def at_most(limit: int) -> Iterator[None]:
    """Let allocations beyond `limit` bytes of address space fail, so that the run goes on; 0 = no."""
    if resource is None or not limit:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
