"""Audio that is not a file of its own: a row of a table, a member of a tar file, bytes in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TypeAlias


class AudioBytes(ABC):
    """Where some encoded audio is, in place of a path; it is read each time it is asked for.

    It is small and cheap to pickle, so that workers of a DataLoader get it, and it never changes.

    Args:
        name: how errors call it, such as "shard-0.tar/u1.flac"; two with one name are the same audio.

    """

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def read(self) -> bytes:
        """Return the encoded audio, as a wav, flac, … file would hold it.

        Raises:
            OSError: it cannot be read, or not in full.

        """

    def identity(self) -> list[int | str] | None:
        """What stays the same as long as the content does, without reading it; None = unknown."""
        return None

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and str(other) == self.name

    def __hash__(self) -> int:
        return hash((type(self), self.name))


Audio: TypeAlias = Path | AudioBytes


class MemoryAudio(AudioBytes):
    """Encoded audio that is held in memory, such as a row of a stream.

    Args:
        name: how errors call it.
        content: the encoded audio.

    """

    def __init__(self, name: str, content: bytes) -> None:
        super().__init__(name)
        self.content = content

    def read(self) -> bytes:
        """Return the encoded audio."""
        return self.content

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, MemoryAudio)
            and other.name == self.name
            and other.content == self.content
        )

    def __hash__(self) -> int:
        return hash(self.name)
