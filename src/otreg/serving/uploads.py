"""A request's form: its fields, and its file on disk, however large a body is sent."""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from python_multipart.exceptions import FormParserError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.types import Message

from otreg.serving.errors import RequestError, bad_request, hung_up, too_large, too_slow

logger = logging.getLogger(__name__)

MAX_FIELDS = 20
MAX_FIELD_BYTES = 64 * 1024


@dataclass(frozen=True)
class Upload:
    """A file that was sent, and the text beside it.

    Args:
        folder: the request's own; `remove` removes it.
        path: the file in it.
        name: what the client calls the file.
        fields: the form's text fields, in order.
    """

    folder: Path
    path: Path
    name: str
    fields: list[tuple[str, str]]

    def remove(self) -> None:
        """Remove the folder."""
        _remove(self.folder)

    def rename(self, message: str) -> str:
        """A message in the client's words: the file by its name, not by its path (or a copy's) here."""
        own = re.escape(str(self.folder)) + r"[^\s:'\"]*"
        return re.sub(own, lambda _: repr(self.name), message)


async def receive_upload(
    request: Request, *, max_bytes: int, timeout_s: float, root: Path
) -> Upload:
    """Read a form with one file, to disk, and no more than the limit.

    Args:
        request: whose body is read.
        max_bytes: most bytes of the body, file and all.
        timeout_s: most seconds for the body.
        root: where the request's folder is made.

    Raises:
        RequestError: 413 for a larger body: at once where its header says so, else where the limit is
            reached; 408 for one that takes longer; 499 where the client hung up; 400 for a body that
            is no form with a file.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > max_bytes:
        raise too_large(max_bytes)
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise bad_request(
            "expected a form (Content-Type multipart/form-data) with the fields 'file' and 'model'"
        )
    body = _Body(request, max_bytes, timeout_s)
    try:
        form = await Request(request.scope, body.receive).form(
            max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
        )
    except (HTTPException, FormParserError) as error:
        detail = error.detail if isinstance(error, HTTPException) else str(error)
        raise body.problem or bad_request(f"the form cannot be read: {detail}") from error
    try:
        items = form.multi_items()
        files = [value for name, value in items if name == "file"]
        if len(files) > 1:
            raise bad_request(
                f"expected one field 'file', received {len(files)}; send one file a request", "file"
            )
        file = files[0] if files else None
        if not isinstance(file, UploadFile):
            raise bad_request(
                "the field 'file' is missing or is no file; send the audio as a file with a name",
                "file",
            )
        folder = Path(tempfile.mkdtemp(dir=root))
        try:
            path = folder / "audio"
            await run_in_threadpool(_copy, file, path)
        except BaseException:
            _remove(folder)
            raise
        fields = [(name, value) for name, value in items if isinstance(value, str)]
        return Upload(folder, path, file.filename or "audio", fields)
    finally:
        await form.close()


class _Body:
    """A request's body, up to where something is wrong with it.

    What is wrong is raised as a mistake of the form: after those, the form's parser closes its files.

    Attributes:
        problem: what was wrong.
    """

    def __init__(self, request: Request, max_bytes: int, timeout_s: float) -> None:
        self.problem: RequestError | None = None
        self._request = request
        self._left = self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s

    async def receive(self) -> Message:
        left_s = max(0.0, self._deadline - time.monotonic())
        try:
            message = await asyncio.wait_for(self._request.receive(), left_s)
        except asyncio.TimeoutError:
            self.problem = too_slow(self._timeout_s)
        else:
            self._left -= len(message.get("body", b""))
            if message["type"] == "http.disconnect":
                self.problem = hung_up()
            elif self._left < 0:
                self.problem = too_large(self._max_bytes)
            else:
                return message
        raise MultiPartException(self.problem.message)


def _copy(file: UploadFile, path: Path) -> None:
    with path.open("wb") as target:
        shutil.copyfileobj(file.file, target, 1 << 20)


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        logger.warning("the temporary folder %s could not be removed: %s", folder, error)
