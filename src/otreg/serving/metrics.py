"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_PIECES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server, in a registry of their own.

    Attributes:
        requests: answers, by path and status; 499 = the client hung up first.
        latency_s: from a request's first byte to its answer's last, of transcriptions.
        audio_s: seconds of audio transcribed.
        batch_size: pieces of audio decoded together.
        batch_s: how long a batch took to decode.
        dropped: requests whose waiting pieces left the queue undecoded, by reason: hung_up, timeout,
            shutdown.
        token_limit: pieces whose decoding stopped at the limit of tokens.
    """

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "otreg_requests", "Answers by path and status", ["path", "status"], registry=registry
        )
        self.latency_s = Histogram(
            "otreg_request_seconds",
            "Seconds from request to whole answer, transcriptions",
            buckets=_SECONDS,
            registry=registry,
        )
        self.audio_s = Counter(
            "otreg_audio_seconds", "Seconds of audio transcribed", registry=registry
        )
        self.batch_size = Histogram(
            "otreg_batch_size", "Pieces decoded together", buckets=_PIECES, registry=registry
        )
        self.batch_s = Histogram(
            "otreg_batch_seconds", "Seconds to decode a batch", buckets=_SECONDS, registry=registry
        )
        self.dropped = Counter(
            "otreg_dropped", "Requests dropped undecoded, by reason", ["reason"], registry=registry
        )
        self.token_limit = Counter(
            "otreg_token_limit", "Pieces cut at the limit of tokens", registry=registry
        )
        self._queue_length = Gauge(
            "otreg_queue_length", "Pieces of audio that wait", registry=registry
        )
        self._open_requests = Gauge(
            "otreg_open_requests", "Requests that upload, wait or are decoded", registry=registry
        )

    def watch(self, *, queue_length: Callable[[], int], open_requests: Callable[[], int]) -> None:
        """Ask these whenever the metrics are read."""
        self._queue_length.set_function(queue_length)
        self._open_requests.set_function(open_requests)

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self.registry)
