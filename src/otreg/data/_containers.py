"""Find the cuts in WAV and Ogg files that libsndfile passes over in silence.

libsndfile shortens a cut WAV file to what is there, and ends an Ogg stream at the first damaged
page. (A cut FLAC or MP3 file shows itself: decoding yields fewer samples than the header promises.)
What stays invisible: damage inside PCM or MP3 data, which carry no checksum, and a file whose
header was never completed (a streamed WAV says 0xFFFFFFFF bytes).
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import BinaryIO

_UNKNOWN_SIZE = 0xFFFFFFFF
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class ContainerError(ValueError):
    """A damaged container; the message continues "audio file X …"."""


def check_container(path: Path, kind: str) -> None:
    """Raise a ContainerError for a cut WAV or a cut or damaged Ogg file.

    Args:
        path: the file.
        kind: "wav", "flac", "ogg" or "mp3", as libsndfile recognised it.

    Raises:
        ContainerError: saying what is wrong and what to do.

    """
    if kind not in ("wav", "ogg"):
        return
    with open(path, "rb") as file:
        if kind == "wav":
            _check_wav(file, path.stat().st_size)
        else:
            _check_ogg(file)


def _check_wav(file: BinaryIO, size: int) -> None:
    """Compare the data chunk's length with the bytes that follow it."""
    order = ">" if file.read(12)[:4] == b"RIFX" else "<"
    data_size_64 = None
    while len(header := file.read(8)) == 8:
        name, length = struct.unpack(order + "4sI", header)
        start = file.tell()
        if name == b"data":
            if length == _UNKNOWN_SIZE:
                if data_size_64 is None:
                    return
                length = data_size_64
            if start + length > size:
                raise ContainerError(
                    f"is truncated: its header promises {length} bytes of samples, "
                    f"{size - start} are there; copy or make it again"
                )
            return
        if name == b"ds64" and length >= 16:  # RF64: the lengths that do not fit into 32 bits
            (data_size_64,) = struct.unpack(order + "8xQ", file.read(16))
        file.seek(start + length + length % 2)
    raise ContainerError("has no data chunk; copy or make it again")


def _check_ogg(file: BinaryIO) -> None:
    """Check every page's checksum and that the last page ends its stream."""
    offset, ends_stream = 0, False
    while header := file.read(27):
        if len(header) < 27 or header[:4] != b"OggS":
            raise ContainerError(f"is damaged: no Ogg page at byte {offset}; copy or make it again")
        num_segments = header[26]
        segments = file.read(num_segments)
        body = file.read(sum(segments))
        if len(segments) < num_segments or len(body) < sum(segments):
            raise ContainerError(
                f"is truncated inside the Ogg page at byte {offset}; copy or make it again"
            )
        page = header[:22] + bytes(4) + header[26:] + segments + body
        if _ogg_checksum(page) != header[22:26]:
            raise ContainerError(
                f"is damaged: the Ogg page at byte {offset} has a wrong checksum; "
                "copy or make it again"
            )
        ends_stream = bool(header[5] & 4)
        offset += len(page)
    if not ends_stream:
        raise ContainerError(
            "is truncated: its last Ogg page does not end the stream; copy or make it again"
        )


def _ogg_checksum(page: bytes) -> bytes:
    """Ogg's CRC-32 (polynomial 04C11DB7, most significant bit first, starting at 0), little-endian.

    zlib's is the same polynomial with all bits reversed, starting at and combined with all ones.
    """
    reflected = zlib.crc32(page.translate(_REVERSED_BITS), _UNKNOWN_SIZE) ^ _UNKNOWN_SIZE
    return reflected.to_bytes(4, "big").translate(_REVERSED_BITS)
