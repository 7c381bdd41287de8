"""One transcription request from its upload to its answer."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from otreg.data.audio import AudioError
from otreg.data.utterance import Utterance
from otreg.model.generation import Transcription
from otreg.serving.batching import Batcher, Ticket
from otreg.serving.errors import RequestError, bad_request, hung_up, timed_out, too_many
from otreg.serving.fields import Fields, read_fields
from otreg.serving.formats import (
    MEDIA_TYPES,
    delta_event,
    done_event,
    error_event,
    hit_limit,
    render,
)
from otreg.serving.limits import Limits
from otreg.serving.uploads import Upload, receive_upload
from otreg.transcription import Joiner

LIMIT_HEADER = "X-Otreg-Hit-Token-Limit"


class Transcriptions:
    """Answers POST /v1/audio/transcriptions.

    Args:
        batcher: decodes.
        model: the name of the model, which requests must give.
        limits: what a request may take.
        root: where requests keep their files while they are open.
    """

    def __init__(self, batcher: Batcher, *, model: str, limits: Limits, root: Path) -> None:
        self.batcher = batcher
        self.model = model
        self.limits = limits
        self.root = root
        self.num_open = 0
        self._numbers = itertools.count()

    async def answer(self, request: Request) -> Response:
        """Answer a request.

        Raises:
            RequestError: whatever keeps it from its transcript.
        """
        self.batcher.ready_decoder()
        if self.num_open >= self.limits.max_requests:
            raise too_many(self.limits.max_requests)
        self.num_open += 1
        job = _Job(self, request)
        try:
            response = await job.begin()
        except RequestError as error:
            job.end(error)
            raise
        except BaseException:
            job.end()
            raise
        if not isinstance(response, _Stream):
            job.end()
        return response

    def next_id(self) -> str:
        """An id that no other utterance of this server has."""
        return str(next(self._numbers))


class _Stream(StreamingResponse):
    """Server-sent events of a job, which ends with them, even where none could be sent."""

    def __init__(self, events: AsyncIterator[str], job: _Job) -> None:
        super().__init__(events, media_type="text/event-stream")
        self.job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with contextlib.suppress(ClientDisconnect):
                await super().__call__(scope, receive, send)
        finally:
            self.job.end()


class _Job:
    """An open request: `begin` it, and `end` it once, whatever happens; a stream ends it by itself."""

    def __init__(self, owner: Transcriptions, request: Request) -> None:
        self.owner = owner
        self.limits = owner.limits
        self.batcher = owner.batcher
        self.request = request
        self.deadline = time.monotonic() + self.limits.timeout_s
        self.upload: Upload
        self.fields: Fields
        self.joiner: Joiner
        self.ticket: Ticket | None = None
        self.watch: asyncio.Task[None] | None = None

    async def begin(self) -> Response:
        """Everything up to the answer, or up to a stream's first event."""
        self.upload = await receive_upload(
            self.request,
            max_bytes=self.limits.max_upload_bytes,
            timeout_s=self.limits.timeout_s,
            root=self.owner.root,
        )
        try:
            self.fields = read_fields(self.upload.fields, self.owner.model)
            self.ticket = await self._submit()
        except BaseException:
            self.upload.remove()
            raise
        self.watch = asyncio.ensure_future(self._disconnected())
        delta = await self._hear(0)
        if self.fields.stream:  # what failed before the first event had a status of its own
            return _Stream(self._events(delta), self)
        for number in range(1, len(self.ticket.pieces)):
            await self._hear(number)
        asked = self.fields.response_format
        body = render(
            asked,
            self.joiner.text,
            self.joiner.segments,
            language=self.fields.language,
            duration_s=self.joiner.segments[-1].end_s,
        )
        headers = {LIMIT_HEADER: "true"} if hit_limit(self.joiner.segments) else None
        return Response(body, media_type=MEDIA_TYPES[asked], headers=headers)

    def end(self, reason: RequestError | None = None) -> None:
        """Leave; what of the request still waits is dropped."""
        self.owner.num_open -= 1
        if self.watch is not None:
            self.watch.cancel()
        if self.ticket is not None:
            self.batcher.drop(self.ticket, reason or hung_up())

    async def _submit(self) -> Ticket:
        recording = Utterance(self.owner.next_id(), self.upload.path, language=self.fields.language)
        cut = self.batcher.ready_decoder().pieces
        try:
            pieces = await run_in_threadpool(cut, recording, self.upload.folder)
        except AudioError as error:
            message = self.upload.rename(str(error))
            raise bad_request(message, "file", "invalid_audio") from error
        self.joiner = Joiner([piece.chunk for piece in pieces], self.fields.language)
        return self.batcher.submit(pieces, self.upload.remove)

    async def _disconnected(self) -> None:
        while (await self.request.receive())["type"] != "http.disconnect":
            pass

    async def _hear(self, number: int) -> str:
        """Wait for a piece's transcript; return what it adds to the text."""
        return self.joiner.add(await self._result(number))

    async def _result(self, number: int) -> Transcription:
        assert self.ticket is not None
        assert self.watch is not None
        result = asyncio.wrap_future(self.ticket.results[number])
        result.add_done_callback(_look_at)
        either: list[asyncio.Future[Any]] = [result, self.watch]
        left_s = max(0.0, self.deadline - time.monotonic())
        await asyncio.wait(either, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        if result.done():
            try:
                return result.result()
            except RequestError as error:
                error.message = self.upload.rename(error.message)
                raise
        reason = hung_up() if self.watch.done() else timed_out(self.limits.timeout_s)
        self.batcher.drop(self.ticket, reason)
        raise reason

    async def _events(self, delta: str) -> AsyncIterator[str]:
        assert self.ticket is not None
        try:
            if delta:
                yield delta_event(delta)
            for number in range(1, len(self.ticket.pieces)):
                if delta := await self._hear(number):
                    yield delta_event(delta)
            yield done_event(self.joiner.text, hit_limit=hit_limit(self.joiner.segments))
        except RequestError as error:
            self.batcher.drop(self.ticket, error)
            yield error_event(error.body)


def _look_at(future: asyncio.Future[Transcription]) -> None:
    """Fetch an error that nobody waits for any more, so that asyncio does not log it."""
    if not future.cancelled():
        future.exception()
