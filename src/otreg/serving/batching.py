"""One thread that owns the model and decodes what parallel requests wait for, batch by batch."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Literal, Protocol

import torch

from otreg.data.audio import AudioError
from otreg.data.utterance import Utterance
from otreg.model.generation import Transcription
from otreg.serving.errors import RequestError, bad_request, failed, loading, shutting_down
from otreg.serving.metrics import Metrics
from otreg.serving.recognizer import Piece

logger = logging.getLogger(__name__)

State = Literal["loading", "ready", "closed", "failed"]
MAX_FAILURES = 5
"""Pieces that may fail one after the other, by no fault of their audio, before the model is given up."""

_DEVICE_ERRORS: tuple[type[Exception], ...] = (
    (torch.AcceleratorError,) if hasattr(torch, "AcceleratorError") else ()
)


class Decoder(Protocol):
    """What a `Recognizer` does."""

    def pieces(self, recording: Utterance, folder: Path) -> list[Piece]:
        """Cut a recording into what is decoded at once."""

    def transcribe(self, utterances: Sequence[Utterance]) -> list[Transcription]:
        """Decode as one batch, in order."""


class Ticket:
    """A request in the queue: its pieces, and a future for each of their transcripts.

    Attributes:
        pieces: in the order of the recording.
        results: of each piece, a `Transcription` or a `RequestError`.
    """

    def __init__(self, pieces: Sequence[Piece], when_settled: Callable[[], None]) -> None:
        self.pieces = list(pieces)
        self.results: list[Future[Transcription]] = [Future() for _ in pieces]
        self.waiting = deque(range(len(self.pieces)))
        self._unsettled = len(self.pieces)
        self._when_settled = when_settled
        self._lock = threading.Lock()
        for result in self.results:
            result.add_done_callback(self._settle)

    def _settle(self, _: Future[Transcription]) -> None:
        with self._lock:
            self._unsettled -= 1
            last = self._unsettled == 0
        if last:
            self._when_settled()


class Batcher:
    """Decodes pieces of many requests together; one thread loads the model and uses it.

    The thread takes what waits when it is free, one piece a request in turn, so that a long recording
    does not keep short ones waiting. It does not wait for a batch to fill. A batch that fails is
    halved until the piece that is to blame fails alone. Where the device itself has failed, or
    `MAX_FAILURES` pieces in a row, the state becomes "failed", and whatever waits or comes gets 503.

    Args:
        load: gives the model; called in the thread.
        metrics: what is counted.
        max_batch: most pieces decoded together.
        max_batch_s: most seconds of audio decoded together, padding counted: the longest piece times
            the number of pieces. A longer piece is decoded alone.
        when_failed: called in the thread when the model cannot be loaded.

    Attributes:
        failure: what kept the model from being loaded; else None.
    """

    def __init__(
        self,
        load: Callable[[], Decoder],
        *,
        metrics: Metrics | None = None,
        max_batch: int = 16,
        max_batch_s: float = 240.0,
        when_failed: Callable[[], None] = lambda: None,
    ) -> None:
        if max_batch < 1 or not max_batch_s > 0:
            raise ValueError(
                f"max_batch must be at least 1 and max_batch_s above 0, received {max_batch} and "
                f"{max_batch_s}"
            )
        self.metrics = metrics or Metrics()
        self.max_batch = max_batch
        self.max_batch_s = max_batch_s
        self.failure: BaseException | None = None
        self._reason = ""  # why the model was given up
        self._num_failures = 0  # since a piece was decoded
        self._load = load
        self._decoder: Decoder | None = None
        self._when_failed = when_failed
        self._queue: deque[Ticket] = deque()
        self._changed = threading.Condition()
        self._state: State = "loading"
        self._thread = threading.Thread(target=self._run, name="otreg-decoding", daemon=True)

    @property
    def state(self) -> State:
        """Whether the model is there."""
        return self._state

    @property
    def num_waiting(self) -> int:
        """Pieces that wait."""
        with self._changed:
            return sum(len(ticket.waiting) for ticket in self._queue)

    def start(self) -> None:
        """Begin to load the model."""
        self._thread.start()

    def submit(
        self, pieces: Sequence[Piece], when_settled: Callable[[], None] = lambda: None
    ) -> Ticket:
        """Put a request's pieces into the queue.

        Args:
            pieces: at least one.
            when_settled: called once when the last of them is decoded, failed or dropped, in whatever
                thread that happens; not where this raises.

        Raises:
            RequestError: the model is not there or has failed, or the server is ending.
        """
        ticket = Ticket(pieces, when_settled)
        with self._changed:
            self.ready_decoder()
            self._queue.append(ticket)
            self._changed.notify()
        return ticket

    def ready_decoder(self) -> Decoder:
        """The model.

        Raises:
            RequestError: it is loading, it has failed, or the server is ending.
        """
        if self._state == "loading":
            raise loading()
        if self._state == "failed":
            raise failed(self._reason)
        if self._state != "ready" or self._decoder is None:
            raise shutting_down()
        return self._decoder

    def drop(self, ticket: Ticket, error: RequestError) -> int:
        """Take a request's waiting pieces out of the queue; those being decoded go on.

        Returns:
            How many pieces were dropped.
        """
        with self._changed:
            dropped = list(ticket.waiting)
            ticket.waiting.clear()
            if ticket in self._queue:
                self._queue.remove(ticket)
        if dropped:
            self.metrics.dropped.labels(error.code or "").inc()
        for number in dropped:
            ticket.results[number].set_exception(error)
        return len(dropped)

    def close(self) -> None:
        """End after the batch that is being decoded; what waits fails with 503."""
        with self._changed:
            if self._state != "failed":
                self._state = "closed"
            waiting = list(self._queue)
            self._changed.notify()
        for ticket in waiting:
            self.drop(ticket, shutting_down())

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until the thread has ended."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            decoder = self._decoder = self._load()
        except BaseException as error:
            self.failure = error
            self._fail(error, "the model could not be loaded")
            self._when_failed()
            return
        with self._changed:
            if self._state == "loading":
                self._state = "ready"
        while batch := self._take():
            self.metrics.batch_size.observe(len(batch))
            began = time.perf_counter()
            self._decode(decoder, batch)
            self.metrics.batch_s.observe(time.perf_counter() - began)
            del batch  # a request's memory is not kept until the next comes

    def _take(self) -> list[tuple[Ticket, int]]:
        """Wait for pieces; return a batch of them, or nothing at the end."""
        batch: list[tuple[Ticket, int]] = []
        longest_s = 0.0
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._state != "ready")
            while self._queue and len(batch) < self.max_batch and self._state == "ready":
                ticket = self._queue[0]
                piece = ticket.pieces[ticket.waiting[0]]
                longest_s = max(longest_s, piece.duration_s)
                if batch and longest_s * (len(batch) + 1) > self.max_batch_s:
                    break
                batch.append((ticket, ticket.waiting.popleft()))
                self._queue.popleft()
                if ticket.waiting:
                    self._queue.append(ticket)
        return batch

    def _decode(self, decoder: Decoder, batch: list[tuple[Ticket, int]]) -> None:
        pieces = [ticket.pieces[number] for ticket, number in batch]
        done: list[Transcription] = []
        failure: Exception | None = None
        if not self._reason:
            try:
                done = decoder.transcribe([piece.utterance for piece in pieces])
            except Exception as error:
                if len(batch) == 1 and not isinstance(error, AudioError):
                    logger.exception("a piece of audio could not be decoded")
                failure = error.with_traceback(None)  # its frames hold the failed pass's tensors
        if isinstance(failure, _DEVICE_ERRORS):
            self._fail(failure, "the device that decodes has failed")
        if self._reason:
            for ticket, number in batch:
                ticket.results[number].set_exception(failed(self._reason))
            return
        if failure is not None and len(batch) > 1:
            half = len(batch) // 2
            self._decode(decoder, batch[:half])
            self._decode(decoder, batch[half:])
            return
        if failure is not None:
            [(ticket, number)] = batch
            ticket.results[number].set_exception(_answer_to(failure))
            self._num_failures += not isinstance(failure, AudioError)
            if self._num_failures >= MAX_FAILURES:
                self._fail(failure, f"{MAX_FAILURES} pieces of audio in a row could not be decoded")
            return
        self._num_failures = 0
        for (ticket, number), piece, transcription in zip(batch, pieces, done, strict=True):
            self.metrics.audio_s.inc(piece.duration_s)
            self.metrics.token_limit.inc(int(transcription.hit_limit))
            ticket.results[number].set_result(transcription)

    def _fail(self, error: BaseException, reason: str) -> None:
        """Give the model up: what waits, and what comes, hears the reason."""
        with self._changed:
            self._reason = reason
            if self._state != "closed":
                self._state = "failed"
            waiting = list(self._queue)
        if self.failure is None:  # else the server ends with it
            logger.error("%s: %r", reason, error)
        for ticket in waiting:
            self.drop(ticket, failed(reason))


def _answer_to(error: Exception) -> RequestError:
    """What the client hears of a piece that cannot be decoded."""
    if isinstance(error, AudioError):
        return bad_request(str(error), "file", "invalid_audio")
    return RequestError(
        500, "the server failed to decode this audio; its log says why", code="decoding"
    )
