"""The web application: OpenAI's paths, its errors, and a server's health and metrics."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from otreg.serving.batching import Batcher
from otreg.serving.errors import RequestError
from otreg.serving.fields import unknown_model
from otreg.serving.gate import Gate
from otreg.serving.limits import Limits
from otreg.serving.transcriptions import Transcriptions

TRANSCRIPTIONS = "/v1/audio/transcriptions"
MODELS = "/v1/models"
HEALTH = "/health"
METRICS = "/metrics"


def create_app(
    batcher: Batcher,
    *,
    model: str,
    root: Path,
    key: str | None = None,
    limits: Limits | None = None,
    hosts: frozenset[str] | None = None,
) -> Gate:
    """Build the application around a batcher, which the caller starts and closes.

    Args:
        batcher: decodes.
        model: the name that requests must give.
        root: folder for the files of open requests.
        key: what clients must send; None = no key is asked for.
        limits: what requests may take.
        hosts: what requests may call the server, see `otreg.serving.access.names_of`; None = anything.

    Returns:
        An ASGI application.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    transcriptions = Transcriptions(batcher, model=model, limits=limits or Limits(), root=root)
    batcher.metrics.watch(
        queue_length=lambda: batcher.num_waiting, open_requests=lambda: transcriptions.num_open
    )
    record = {"id": model, "object": "model", "created": int(time.time()), "owned_by": "otreg"}

    @app.post(TRANSCRIPTIONS)
    async def transcribe(request: Request) -> Response:
        return await transcriptions.answer(request)

    @app.get(MODELS)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [record]}

    @app.get(MODELS + "/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        if name != model:
            raise unknown_model(name, model)
        return record

    @app.get(HEALTH)
    async def health() -> Response:
        ready = batcher.state == "ready"
        return JSONResponse({"status": batcher.state}, 200 if ready else 503)

    @app.get(METRICS)
    async def metrics() -> Response:
        return Response(batcher.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(RequestError)
    async def refused(_: Request, error: RequestError) -> Response:
        return JSONResponse(error.body, error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        message = f"{request.method} {request.url.path[:100]}: {error.detail}"
        body = RequestError(error.status_code, message).body
        return JSONResponse(body, error.status_code, error.headers)

    return Gate(
        app,
        key=key,
        metrics=batcher.metrics,
        paths=frozenset((TRANSCRIPTIONS, MODELS, HEALTH, METRICS)),
        timed=TRANSCRIPTIONS,
        hosts=hosts,
    )
