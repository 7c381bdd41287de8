"""The fields of a transcription request: each is honoured or refused, none is passed over."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from otreg.names import nearest
from otreg.serving.errors import RequestError, bad_request
from otreg.serving.formats import FORMATS, STREAMED

KNOWN = (
    *("file", "model", "language", "prompt", "response_format", "temperature", "stream"),
    *("chunking_strategy", "timestamp_granularities[]"),
)
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8}){0,2}")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class Fields:
    """What is asked for.

    Args:
        language: code, or "".
        response_format: one of `formats.FORMATS`.
        stream: whether the transcript is sent piece by piece.
    """

    language: str = ""
    response_format: str = "json"
    stream: bool = False


def read_fields(given: Sequence[tuple[str, str]], model: str) -> Fields:
    """Check the text fields of a form.

    Args:
        given: name and value, in order.
        model: the name of the model that is served.

    Raises:
        RequestError: 404 for another model, 400 for anything that cannot be honoured.
    """
    values: dict[str, str] = {}
    for name, value in given:
        name = "timestamp_granularities[]" if name == "timestamp_granularities" else name
        if name not in KNOWN:
            raise bad_request(
                f"this server does not know the field {name[:50]!r}, so it cannot honour it; "
                f"{nearest(name[:50], KNOWN)}",
                name[:50],
                "unknown_parameter",
            )
        if name in values and name != "timestamp_granularities[]":
            raise bad_request(f"the field {name!r} is given twice; send it once", name)
        if name == "timestamp_granularities[]" and value != "segment":
            raise bad_request(
                f"timestamps are per segment here; received the granularity {value[:50]!r}: leave "
                "it out or send 'segment'",
                name,
            )
        values[name] = value
    _check_model(values.get("model"), model)
    fields = Fields(
        _language(values.get("language", "")),
        _format(values.get("response_format", "json")),
        _boolean("stream", values.get("stream", "false")),
    )
    _check_refused(values)
    if "timestamp_granularities[]" in values and fields.response_format != "verbose_json":
        raise bad_request(
            f"timestamp granularities need response_format 'verbose_json', received "
            f"{fields.response_format!r}",
            "timestamp_granularities[]",
        )
    if fields.stream and fields.response_format not in STREAMED:
        raise bad_request(
            f"a stream has response_format {' or '.join(map(repr, STREAMED))}, received "
            f"{fields.response_format!r}; change it or leave stream out",
            "response_format",
        )
    return fields


def unknown_model(asked: str, model: str) -> RequestError:
    """The model asked for is not the one that is served."""
    return RequestError(
        404,
        f"the model {asked[:100]!r} is not served here; this server has {model!r}",
        param="model",
        code="model_not_found",
    )


def _check_model(asked: str | None, model: str) -> None:
    if not asked:
        raise bad_request(f"the field 'model' is missing; send {model!r}", "model")
    if asked != model:
        raise unknown_model(asked, model)


def _language(value: str) -> str:
    if value and not _LANGUAGE.fullmatch(value):
        raise bad_request(
            f"expected a language code such as 'en' or 'pt-BR', received {value[:50]!r}", "language"
        )
    return value


def _format(value: str) -> str:
    if value not in FORMATS:
        raise bad_request(
            f"unknown response_format {value[:50]!r}; {nearest(value[:50], FORMATS)}",
            "response_format",
        )
    return value


def _boolean(name: str, value: str) -> bool:
    if value.lower() not in _BOOLEANS:
        raise bad_request(f"{name} must be true or false, received {value[:50]!r}", name)
    return _BOOLEANS[value.lower()]


def _check_refused(values: dict[str, str]) -> None:
    """Fields that are known but have one value only."""
    if values.get("prompt"):
        raise bad_request(
            "this model takes no prompt, so the prompt would change nothing; leave it out", "prompt"
        )
    try:
        temperature = float(values.get("temperature") or 0)
    except ValueError:
        temperature = float("nan")
    if temperature != 0:
        raise bad_request(
            f"decoding is greedy here: temperature must be 0, received "
            f"{values['temperature'][:50]!r}; send 0 or leave it out",
            "temperature",
        )
    if values.get("chunking_strategy", "auto") != "auto":
        raise bad_request(
            "the server cuts recordings by itself: chunking_strategy must be 'auto', received "
            f"{values['chunking_strategy'][:50]!r}; send 'auto' or leave it out",
            "chunking_strategy",
        )
