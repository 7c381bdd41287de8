"""What one request, and all of them together, may take."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """Bounds of a server.

    A request's file is on disk once, and twice while it is received: at most about max_requests x
    max_upload_bytes in all.

    Args:
        max_upload_bytes: of a request's body.
        timeout_s: from a request's beginning to its answer; what still waits then is dropped.
        max_requests: requests that upload, wait or are decoded at a time; more get 429.

    Raises:
        ValueError: one is not a positive number.
    """

    max_upload_bytes: int = 100_000_000
    timeout_s: float = 300.0
    max_requests: int = 128

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 < value < math.inf:
                raise ValueError(f"{field.name} must be a positive number, received {value}")
