"""What every request passes through first: the key, and the counts of answers and their time."""

from __future__ import annotations

import logging
import time

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from otreg.serving.access import key_matches
from otreg.serving.errors import RequestError
from otreg.serving.metrics import Metrics

logger = logging.getLogger(__name__)

OPEN_PATHS = ("/health",)


class Gate:
    """ASGI middleware around the whole application.

    It reads no body: a request without the key is refused before anything of it is stored.

    Args:
        app: the application.
        key: what clients must send as `Authorization: Bearer KEY`; None = no key is asked for.
        metrics: where answers are counted.
        paths: the application's paths; others are counted together, so that strangers cannot fill
            the memory with names.
        timed: the path whose time is measured.
    """

    def __init__(
        self, app: ASGIApp, *, key: str | None, metrics: Metrics, paths: frozenset[str], timed: str
    ) -> None:
        self.app = app
        self.key = key
        self.metrics = metrics
        self.paths = paths
        self.timed = timed

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
            if path not in OPEN_PATHS and not self._has_key(scope):
                await _refusal()(scope, receive, counting)
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

    def _has_key(self, scope: Scope) -> bool:
        return self.key is None or key_matches(Headers(scope=scope).get("authorization"), self.key)


def _refusal() -> JSONResponse:
    error = RequestError(
        401,
        "this server needs its API key: send the header 'Authorization: Bearer KEY'",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer", "Connection": "close"},
    )
    return JSONResponse(error.body, error.status, error.headers)
