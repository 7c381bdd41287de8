"""What goes wrong with a request, in the form that OpenAI's API gives its errors."""

from __future__ import annotations

from typing import Any


class RequestError(Exception):
    """A request that is not answered with a transcript.

    Args:
        status: HTTP's status code.
        message: what is wrong, what was expected, what to do.
        param: the field of the form that is wrong, or None.
        code: a short name of what is wrong, for programs, or None.
        retry_after_s: seconds to wait before another try; None = another try would not help.
        headers: further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(retry_after_s)

    @property
    def body(self) -> dict[str, Any]:
        """The answer's JSON: {"error": {"message", "type", "param", "code"}}."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return {
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }


def bad_request(message: str, param: str | None = None, code: str | None = None) -> RequestError:
    """A mistake of the client's that another try would not mend: 400."""
    return RequestError(400, message, param=param, code=code)


def wrong_key() -> RequestError:
    """The request has no key, or not the server's."""
    return RequestError(
        401,
        "this server needs its API key: send the header 'Authorization: Bearer KEY'",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer", "Connection": "close"},
    )


def wrong_host() -> RequestError:
    """The request calls the server by a name that is not its own."""
    return RequestError(
        400,
        "without a key this server answers to localhost, 127.0.0.1, [::1] and its --host alone, and the "
        "header Host names another; call it by one of these, or start it with a key",
        code="invalid_host",
        headers={"Connection": "close"},
    )


def hung_up() -> RequestError:
    """The client has gone; 499 is what nginx calls it, and nobody receives it."""
    return RequestError(499, "the client hung up", code="hung_up")


def timed_out(timeout_s: float) -> RequestError:
    """The request took longer than the server allows."""
    return RequestError(
        503,
        f"the transcript was not ready within {timeout_s:g} s; try again later, or send less audio",
        code="timeout",
        retry_after_s=5,
    )


def shutting_down() -> RequestError:
    """The server ends, and the request was not decoded yet."""
    return RequestError(
        503, "the server is shutting down; try again later", code="shutdown", retry_after_s=5
    )


def failed(reason: str) -> RequestError:
    """The model cannot be used any more, or never could."""
    return RequestError(
        503, f"{reason}; the server's log says why, and it must be started anew", code="failed"
    )


def loading() -> RequestError:
    """The model is not there yet."""
    return RequestError(
        503, "the model is still loading; try again later", code="loading", retry_after_s=5
    )


def too_many(max_requests: int) -> RequestError:
    """As many requests are open as the server takes."""
    return RequestError(
        429,
        f"{max_requests} requests are open, and this server takes no more at a time; try again "
        "later",
        code="queue_full",
        retry_after_s=1,
    )


def too_large(max_bytes: int) -> RequestError:
    """The request's body is beyond the limit."""
    return RequestError(
        413,
        f"the request is larger than {max_bytes / 1e6:g} MB; send compressed audio (flac, mp3, "
        "ogg) or less of it",
        param="file",
        code="too_large",
        headers={"Connection": "close"},
    )


def too_slow(timeout_s: float) -> RequestError:
    """The request's body takes too long to arrive."""
    return RequestError(
        408,
        f"the upload took longer than {timeout_s:g} s; send it faster, or compressed audio (flac, mp3, "
        "ogg)",
        code="timeout",
        headers={"Connection": "close"},
    )
