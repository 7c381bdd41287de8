"""Checks of single values in a manifest; every error names the line and the place in it."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from otreg.data.utterance import ManifestError
from otreg.names import nearest

_MOST_LEVELS = 100  # of nesting in `custom`; Python's own JSON writer fails at about 1,000


def check_keys(
    record: dict[str, Any], known: Collection[str], where: str, inside: str = ""
) -> None:
    """Refuse keys that are not known; `inside` is the place of the object in its line."""
    for key in record:
        if key not in known:
            place = f" in {inside}" if inside else ""
            raise ManifestError(f"{where}: unknown key {key!r}{place}; {nearest(key, known)}")


def check_object(value: Any, place: str, where: str, example: str) -> dict[str, Any]:
    """Return a JSON object, or refuse what is none."""
    if not isinstance(value, dict):
        raise ManifestError(
            f"{where}: {place} must be an object such as {example}, received {describe(value)}"
        )
    return value


def check_list(value: Any, place: str, where: str, example: str) -> list[Any]:
    """Return a JSON list that holds something, or refuse the value."""
    if not isinstance(value, list):
        raise ManifestError(
            f"{where}: {place} must be a list such as {example}, received {describe(value)}"
        )
    if not value:
        raise ManifestError(f"{where}: {place} is an empty list; leave the key out, or fill it")
    return value


def check_string(value: Any, place: str, where: str, *, blank: bool = False) -> str:
    """Return a string with something in it; with `blank`, white space is enough."""
    if not isinstance(value, str):
        raise ManifestError(f"{where}: {place} must be a string, received {describe(value)}")
    if not value or not (blank or value.strip()):
        raise ManifestError(f"{where}: {place} is empty; expected text")
    check_characters(value, place, where)
    return value


def check_characters(value: str, place: str, where: str) -> None:
    """Refuse what JSON can write but UTF-8 cannot."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ManifestError(
            f"{where}: {place} holds half of a surrogate pair ({value[error.start]!a}), which is "
            "no character; write the character itself"
        ) from error


def check_seconds(value: Any, place: str, where: str) -> float | None:
    """Return seconds as a float, None for null."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ManifestError(
            f"{where}: {place} must be a number of seconds, received {describe(value)}"
        )
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds) or seconds < 0:
        raise ManifestError(
            f"{where}: {place} must be finite and not negative, received {seconds} seconds"
        )
    return seconds


def check_span(
    record: dict[str, Any], where: str, inside: str = ""
) -> tuple[float | None, float | None]:
    """Return start_s and end_s of a record, in order."""
    prefix = f"{inside}." if inside else ""
    start_s = check_seconds(record.get("start_s"), f"'{prefix}start_s'", where)
    end_s = check_seconds(record.get("end_s"), f"'{prefix}end_s'", where)
    if end_s is not None and end_s <= (start_s or 0.0):
        raise ManifestError(
            f"{where}: {prefix}end_s {end_s} does not come after start_s {start_s or 0.0}; "
            "expected 0 <= start_s < end_s, in seconds"
        )
    return start_s, end_s


def check_audio_path(value: Any, place: str, where: str, root: Path) -> Path:
    """Resolve links and "..", and refuse what leaves the root or is no file."""
    audio = check_string(value, place, where)
    try:
        resolved = (root / audio).resolve()
        inside = resolved.is_relative_to(root)
        is_file = inside and resolved.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null byte, a loop of links
        raise ManifestError(f"{where}: {place} {audio!a} is no usable path: {error}") from error
    if not inside:
        raise ManifestError(
            f"{where}: {place} {audio!r} leads out of {root} (to {resolved}); keep the audio "
            "below the manifest's folder, or name a folder above all audio, from which the paths "
            "then start: --root FOLDER on the command line, data.root in a configuration, root= "
            "in Python"
        )
    if not is_file:
        raise ManifestError(
            f"{where}: no audio file {audio!r} in {root}; paths start at the manifest's folder, "
            "or at the root where one is given"
        )
    return resolved


def check_scalars(value: Any, place: str, where: str) -> dict[str, Any]:
    """Return an object of strings, finite numbers, booleans and nulls."""
    record = check_object(value, place, where, '{"emotion": "calm"}')
    for key, item in record.items():
        if isinstance(item, (dict, list)):
            raise ManifestError(
                f"{where}: {place} holds {describe(item)} under {key!r}; expected a string, a "
                "number, a boolean or null (what has parts belongs in 'custom')"
            )
    return check_json(record, place, where)


def check_json(value: Any, place: str, where: str) -> Any:
    """Return a value that JSON writes and reads back equal, or say what in it does not."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > _MOST_LEVELS:
            raise ManifestError(
                f"{where}: {place} is nested more than {_MOST_LEVELS} levels deep; flatten it"
            )
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                for key in item:
                    check_string(key, f"a key in {place}", where, blank=True)
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
            else:
                _check_scalar(item, place, where)
        level = inner
    return value


def _check_scalar(value: Any, place: str, where: str) -> None:
    # Exact types: a subclass such as an enumeration or a NumPy float reads back as another.
    if type(value) is str:
        check_characters(value, place, where)
    elif type(value) is float:
        if not math.isfinite(value):
            raise ManifestError(f"{where}: {place} holds {value}; expected finite numbers")
    elif value is not None and type(value) not in (bool, int):
        raise ManifestError(
            f"{where}: {place} holds a {type(value).__name__}, which JSON does not read back; "
            "expected strings, numbers, booleans, null, lists and objects"
        )


def describe(value: Any) -> str:
    """Name a value's JSON type and show the value, for errors."""
    if value is None:
        return "a null"
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    numbers = {int: "a number", float: "a number"}
    name = {**names, **numbers}.get(type(value), f"a Python {type(value).__name__}")
    shown = repr(value)
    return f"{name}: {shown if len(shown) <= 80 else shown[:77] + '...'}"
