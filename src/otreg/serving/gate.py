"""What every request passes through first: host and key, and the counts of answers and their time."""

from __future__ import annotations

import logging
import time

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from otreg.serving.access import calls_by, key_matches
from otreg.serving.errors import RequestError, wrong_host, wrong_key
from otreg.serving.metrics import Metrics

logger = logging.getLogger(__name__)

OPEN_PATHS = ("/health",)


class Gate:
    """ASGI middleware around the whole application.

    It reads no body: a request without the key, or to another host, is refused before anything of it
    is stored.

    Args:
        app: the application.
        key: what clients must send as `Authorization: Bearer KEY`; None = no key is asked for.
        metrics: where answers are counted.
        paths: the application's paths; others are counted together, so that strangers cannot fill
            the memory with names.
        timed: the path whose time is measured.
        hosts: what requests may call the server; None = anything.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        key: str | None,
        metrics: Metrics,
        paths: frozenset[str],
        timed: str,
        hosts: frozenset[str] | None = None,
    ) -> None:
        self.app = app
        self.key = key
        self.metrics = metrics
        self.paths = paths
        self.timed = timed
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, path = time.perf_counter(), 500, scope["path"]

        async def counting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if not self._is_meant(scope):
                await _refused(wrong_host())(scope, receive, counting)
            elif path not in OPEN_PATHS and not self._has_key(scope):
                await _refused(wrong_key())(scope, receive, counting)
            else:
                await self._answer(scope, receive, counting)
        finally:
            known = path if path in self.paths else "other"
            self.metrics.requests.labels(known, str(status)).inc()
            if path == self.timed:
                self.metrics.latency_s.observe(time.perf_counter() - began)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer; what it did not foresee becomes a 500 in OpenAI's form."""
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception:
            logger.exception("a request failed")
            if begun:
                raise
            error = RequestError(500, "the server failed; its log says why", code="internal")
            await JSONResponse(error.body, error.status)(scope, receive, send)

    def _is_meant(self, scope: Scope) -> bool:
        return self.hosts is None or calls_by(Headers(scope=scope).get("host"), self.hosts)

    def _has_key(self, scope: Scope) -> bool:
        return self.key is None or key_matches(Headers(scope=scope).get("authorization"), self.key)


def _refused(error: RequestError) -> JSONResponse:
    return JSONResponse(error.body, error.status, error.headers)
