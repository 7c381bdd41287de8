"""Worker processes of one thread each; what they log is shown once, by the main process."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

__all__ = ["worker_pool"]

_NO_BARS = "HF_HUB_DISABLE_PROGRESS_BARS"  # transformers reads it as it is imported


@contextlib.contextmanager
def worker_pool(num_processes: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes that share the cores: one thread each, no progress bars of libraries.

    Warnings of all workers are handled by this process's handlers; one that several workers give
    is shown once. After an interrupt the workers are ended at once.

    Args:
        num_processes: how many.
    """
    context = multiprocessing.get_context("spawn")
    level = logging.getLogger().level
    before = os.environ.get(_NO_BARS)
    if level > logging.INFO:
        os.environ[_NO_BARS] = "1"  # also for processes that a step starts itself
    records: Any = context.Queue()
    listener = logging.handlers.QueueListener(records, _Once())
    listener.start()
    pool = ProcessPoolExecutor(
        num_processes, mp_context=context, initializer=_start_worker, initargs=(records, level)
    )
    try:
        with pool:
            try:
                yield pool
            except KeyboardInterrupt:
                for process in multiprocessing.active_children():
                    process.terminate()
                raise
    finally:
        listener.stop()
        if before is None:
            os.environ.pop(_NO_BARS, None)
        else:
            os.environ[_NO_BARS] = before


class _Once(logging.Handler):
    """Hand on records of workers to this process's handlers, each message once."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[tuple[str, str]] = set()

    def emit(self, record: logging.LogRecord) -> None:
        said = (record.name, record.getMessage())
        if said not in self._seen:
            self._seen.add(said)
            logging.getLogger(record.name).handle(record)


def _start_worker(records: Any, level: int) -> None:
    """Set up a worker: one thread, no bars, its log to the main process."""
    from otreg.synthetic.towers import one_thread

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends its workers
    one_thread()
    root = logging.getLogger()
    root.handlers[:] = [logging.handlers.QueueHandler(records)]
    root.setLevel(max(level, logging.DEBUG))
    logging.captureWarnings(True)
    from transformers.utils import logging as transformers_logging

    # transformers' own handler would write beside ours.
    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()
    if level > logging.INFO:
        transformers_logging.disable_progress_bar()
