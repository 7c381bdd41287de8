"""A file of finished results that only grows, so that a killed program can go on."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any


class Journal:
    """Results by key, each on a line of its own; the newest of a key counts.

    A line is handed to the operating system before the next result is computed, so a kill loses at
    most the line that was being written. Such a torn line is cut off when the file is opened again.
    Results are read from the file each time, so memory holds keys only.

    Args:
        path: the file; made where it is missing. One process at a time may hold it.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "journal"
        >>> with Journal(path) as journal:
        ...     journal["a"] = [1.5]
        >>> with Journal(path) as journal:
        ...     journal["a"]
        [1.5]
    """

    def __init__(self, path: str | Path) -> None:
        self._places: dict[str, tuple[int, int]] = {}
        self._file = open(path, "a+b")  # noqa: SIM115 (held until close)
        self._file.seek(0)
        end = 0
        for line in self._file:
            key = _key(line)
            if key is None:
                break
            self._places[key] = (end, len(line))
            end += len(line)
        self._file.truncate(end)
        self._end = end

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __getitem__(self, key: str) -> Any:
        place, length = self._places[key]
        self._file.seek(place)
        return json.loads(self._file.read(length))["made"]

    def __setitem__(self, key: str, made: Any) -> None:
        """Append a result, anything that JSON writes."""
        record = {"key": key, "made": made}
        line = (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode()
        self._file.write(line)  # in append mode: at the end, wherever reading has been
        self._file.flush()
        self._places[key] = (self._end, len(line))
        self._end += len(line)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _key(line: bytes) -> str | None:
    """The key of a whole line, None for a torn one."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    whole = line.endswith(b"\n") and isinstance(record, dict) and "made" in record
    return record["key"] if whole and isinstance(record.get("key"), str) else None
