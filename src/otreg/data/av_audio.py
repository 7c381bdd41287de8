"""Sound files that libsndfile does not read, m4a, webm and aac, by PyAV (extra `av`).

FFmpeg shortens or lengthens in silence what is not whole, so every file is decoded once to be counted,
when it is opened, and again when it is read: for many passes over much data flac is faster.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from otreg.data._containers import ContainerError

HEAD_BYTES = 12
DEMUXERS = {"M4A": "mp4", "WEBM": "matroska", "AAC": "aac"}
"""What the first bytes can say a file is, and FFmpeg's reader of it: no other reader is ever tried."""

_TOLERANCE_S = (
    0.05  # a header's duration, rounded and with the codec's padding, against the samples
)


def recognised(head: bytes) -> str | None:
    """The format of a file by its first bytes: "M4A" (also mp4), "WEBM" (also Matroska), "AAC"; or None."""
    if head[4:8] == b"ftyp":
        return "M4A"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "WEBM"
    # The twelve bits that an AAC frame starts with, then a layer of 0, which no mp3 has.
    return "AAC" if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0 else None


class TooLongError(ContainerError):
    """A file that lasts longer than asked for; the rest of it was not decoded."""


class AvFile:
    """An opened file with the face of `soundfile.SoundFile`, as far as otreg uses it.

    Args:
        source: a path, or an open file.
        format: "M4A", "WEBM" or "AAC".
        longest_s: nothing is decoded of a file whose header promises more than this, in seconds, and
            no more than this of one whose header promises less.

    Raises:
        TooLongError: it lasts longer than longest_s.
        ContainerError: it is damaged, truncated, or holds other than one audio stream.
        ImportError: PyAV is missing.

    """

    def __init__(
        self, source: Path | BinaryIO, format: str, *, longest_s: float = math.inf
    ) -> None:
        self.format = format
        self._source = source
        self._open()
        self.samplerate = 0
        self.channels = 0
        decoded = 0
        try:
            promised_s = self._promised_s()
            if promised_s is not None and promised_s > longest_s + _TOLERANCE_S:
                raise TooLongError(f"lasts {promised_s:.1f} s")
            for block in self._blocks():
                decoded += len(block)
                if decoded > (longest_s + _TOLERANCE_S) * self.samplerate:
                    if self.format != "M4A" or promised_s is None:
                        raise TooLongError(f"lasts more than {longest_s:.1f} s")
                    break  # what follows lies beyond the promised duration
            self.frames = self._whole(decoded)
        finally:
            self._container.close()
        self._waiting: Iterator[np.ndarray] | None = None
        self._left = np.empty((0, self.channels), dtype=np.float32)

    def read(self, frames: int, dtype: str = "float32", always_2d: bool = True) -> np.ndarray:
        """Decode on from where the last read ended: (up to frames, channels) float32."""
        if self._waiting is None:
            self._open()
            self._waiting = self._blocks()
        parts, missing = [], frames
        while missing:
            if not len(self._left):
                block = next(self._waiting, None)
                if block is None:
                    break
                self._left = block
            part, self._left = self._left[:missing], self._left[missing:]
            parts.append(part)
            missing -= len(part)
        return np.concatenate(parts) if parts else self._left

    def close(self) -> None:
        """Let go of the file."""
        self._container.close()

    def __enter__(self) -> AvFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _open(self) -> None:
        av = self._av = _pyav(self.format)
        if not isinstance(self._source, Path):
            self._source.seek(0)
        source: Any = str(self._source) if isinstance(self._source, Path) else self._source
        try:
            self._container = av.open(source, format=DEMUXERS[self.format])
        except (av.FFmpegError, ValueError) as error:
            raise ContainerError(
                f"cannot be opened ({error}): it is damaged or truncated; copy or make it again"
            ) from error
        streams = self._container.streams.audio
        if len(streams) != 1:
            self._container.close()
            raise ContainerError(f"has {len(streams)} audio streams; expected one: extract it")
        self._stream: Any = streams[0]

    def _blocks(self) -> Iterator[np.ndarray]:
        """The decoded samples, (frames, channels) float32 each."""
        av = self._av
        to_float = av.AudioResampler(format="fltp")
        done = 0
        try:
            for frame in self._container.decode(self._stream):
                if not self.samplerate:  # of the frame: the header of HE-AAC says half of it
                    self.samplerate, self.channels = frame.sample_rate, frame.layout.nb_channels
                if (frame.sample_rate, frame.layout.nb_channels) != (
                    self.samplerate,
                    self.channels,
                ):
                    raise ContainerError("changes its rate or channels; convert it to flac")
                for converted in to_float.resample(frame):
                    done += converted.samples
                    yield np.ascontiguousarray(converted.to_ndarray().T, dtype=np.float32)
        except av.FFmpegError as error:
            at_s = done / self.samplerate if self.samplerate else 0.0
            raise ContainerError(
                f"is damaged or truncated at {at_s:.3f} s ({error}); copy or make it again"
            ) from error

    def _whole(self, decoded: int) -> int:
        """How many samples are the file's, of those that were decoded; refuses fewer than promised.

        What an m4a holds beyond its promised duration is the encoder's padding.
        """
        promised_s = self._promised_s()
        if not self.samplerate or promised_s is None:
            return decoded
        if decoded / self.samplerate < promised_s - _TOLERANCE_S:
            raise ContainerError(
                f"is truncated: its header promises {promised_s:.3f} s, decoding ended at "
                f"{decoded / self.samplerate:.3f} s; copy or make it again"
            )
        promised = round(promised_s * self.samplerate)
        return min(decoded, promised) if self.format == "M4A" else decoded

    def _promised_s(self) -> float | None:
        """The duration that the header promises; None where there is none."""
        if self.format == "AAC":  # no header: FFmpeg's duration is a guess
            return None
        if self._stream.duration is not None:
            return float(self._stream.duration * self._stream.time_base)
        if self._container.duration is not None:
            return float(self._container.duration / self._av.time_base)
        return None


def _pyav(kind: str) -> Any:
    """PyAV, which is an extra."""
    try:
        import av
    except ImportError as error:
        raise ImportError(
            f"reading {kind.lower()} needs PyAV: pip install 'otreg[av]'; or convert the file, e.g. to "
            "flac"
        ) from error
    return av
