"""Servers on free ports in threads of the tests, and how tests ask and wait."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import soundfile

from otreg.serving.server import Server

MAX_NEW_TOKENS = 8
PATH = "/v1/audio/transcriptions"


def wav(seconds: float = 0.5) -> bytes:
    """A wav file of that length."""
    target = io.BytesIO()
    soundfile.write(target, np.full(round(16_000 * seconds), 0.1), 16_000, format="WAV")
    return target.getvalue()


def wait_until(done: Callable[[], Any], timeout_s: float = 20.0) -> None:
    """Wait for what another thread does."""
    end = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def started(servers: list[tuple[Server, threading.Thread]], load: Any, **options: Any) -> Server:
    server = Server(load, **{"model": "tiny", "port": 0, **options})
    thread = threading.Thread(target=server.run, name="server", daemon=True)
    thread.start()
    servers.append((server, thread))
    return server


def ended(servers: list[tuple[Server, threading.Thread]]) -> None:
    """Stop servers; whatever was asked of them, no file is left."""
    for server, thread in servers:
        wait_until(
            lambda server=server: not server.root.exists() or not list(server.root.iterdir())
        )
        server.stop()
        thread.join(20)
        assert not thread.is_alive()
        assert not server.root.exists()


def metric(server: Server, line: str) -> float:
    """A value from /metrics, by the line's beginning."""
    text = httpx.get(f"{server.url}/metrics").text
    values = [row.split()[-1] for row in text.splitlines() if row.startswith(f"{line} ")]
    return float(values[0]) if values else 0.0
