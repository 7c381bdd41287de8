"""A server process: a socket, uvicorn around the application, and an orderly end."""

from __future__ import annotations

import contextlib
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn

from otreg.serving.access import names_of
from otreg.serving.app import create_app
from otreg.serving.batching import Batcher
from otreg.serving.limits import Limits
from otreg.serving.recognizer import Recognizer

_PATIENCE_S = 5.0  # for the decoding thread, once no client waits for it


class Server:
    """A model served over HTTP until `run` is interrupted or `stop` is called.

    Args:
        load: gives the model; called in the thread that decodes.
        model: the name that requests must give.
        host: address to listen on; without a key, requests to a local one must name it, or
            localhost, 127.0.0.1 or [::1].
        port: where to listen; 0 = any free one.
        key: what clients must send; None = no key is asked for.
        limits: what requests may take.
        max_batch: see `Batcher`.
        max_batch_s: see `Batcher`.

    Raises:
        OSError: nothing can listen there.
    """

    def __init__(
        self,
        load: Callable[[], Recognizer],
        *,
        model: str,
        host: str = "127.0.0.1",
        port: int = 8000,
        key: str | None = None,
        limits: Limits | None = None,
        max_batch: int = 16,
        max_batch_s: float = 240.0,
    ) -> None:
        self.batcher = Batcher(
            load, max_batch=max_batch, max_batch_s=max_batch_s, when_failed=self.stop
        )
        self._folder = tempfile.TemporaryDirectory(prefix="otreg-serve-")
        self.root = Path(self._folder.name)
        try:
            self._socket = listen(host, port)
        except BaseException:
            self._folder.cleanup()
            raise
        app = create_app(
            self.batcher,
            model=model,
            root=self.root,
            key=key,
            limits=limits,
            hosts=names_of(host, key),
        )
        config = uvicorn.Config(
            app,  # type: ignore[arg-type]
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
        )
        self._server = _Uvicorn(config, self.batcher)

    @property
    def url(self) -> str:
        """Where the server listens: http://HOST:PORT."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def run(self) -> None:
        """Serve until the end: running batches are finished, what waits gets 503.

        In the main thread, SIGINT and SIGTERM end it.

        Raises:
            BaseException: what kept the model from being loaded.
        """
        try:
            self.batcher.start()
            self._server.run(sockets=[self._socket])
        finally:
            self.batcher.close()
            self._socket.close()
            self.batcher.join(timeout_s=_PATIENCE_S)
            self._folder.cleanup()
        if self.batcher.failure is not None:
            raise self.batcher.failure

    def stop(self) -> None:
        """End `run`, from any thread."""
        self._server.should_exit = True


class _Uvicorn(uvicorn.Server):
    """uvicorn, which tells the batcher before it waits for its connections to end.

    SIGINT and SIGTERM end it and are then done with; uvicorn's own way raises them again, and SIGTERM
    would end the process with its temporary files left behind.
    """

    def __init__(self, config: uvicorn.Config, batcher: Batcher) -> None:
        super().__init__(config)
        self._batcher = batcher

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._batcher.close()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:  # type: ignore[override]
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        OSError: the address is in use or not this machine's; the message says which.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise OSError(
            f"cannot listen on {host}, port {port}: {error}; choose another with --host and --port"
        ) from error
