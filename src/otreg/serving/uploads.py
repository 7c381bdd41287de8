"""A request's form: its fields, and its file on disk, however large a body is sent."""

from __future__ import annotations

import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from otreg.serving.errors import bad_request, too_large

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
        """A message in the client's words: the file by its name, not by its path here."""
        return message.replace(str(self.path), repr(self.name))


async def receive_upload(request: Request, *, max_bytes: int, root: Path) -> Upload:
    """Read a form with one file, to disk, and no more than the limit.

    Args:
        request: whose body is read.
        max_bytes: most bytes of the body, file and all.
        root: where the request's folder is made.

    Raises:
        RequestError: 413 for a larger body: at once where its header says so, else where the limit is
            reached; 400 for a body that is no form with a file.
        ClientDisconnect: the client hung up.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > max_bytes:
        raise too_large(max_bytes)
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise bad_request(
            "expected a form (Content-Type multipart/form-data) with the fields 'file' and 'model'"
        )
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise too_large(max_bytes)
        return message

    limited = Request(request.scope, receive)
    try:
        form = await limited.form(max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES)
    except HTTPException as error:
        raise bad_request(f"the form cannot be read: {error.detail}") from error
    try:
        items = form.multi_items()
        file = next((value for name, value in items if name == "file"), None)
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


def _copy(file: UploadFile, path: Path) -> None:
    with path.open("wb") as target:
        shutil.copyfileobj(file.file, target, 1 << 20)


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        logger.warning("the temporary folder %s could not be removed: %s", folder, error)
