"""Find the cuts in WAV, Ogg and MP3 files that libsndfile passes over in silence.

libsndfile shortens a cut WAV file to what is there, ends an Ogg stream at the first damaged page,
and guesses the length of an MP3 file without a Xing header from its size. (A cut FLAC file, or MP3
with that header, shows itself: decoding yields fewer samples than promised.) What stays invisible:
damage inside PCM or MP3 data, which carry no checksum, a WAV file whose header was never completed
(it says 0xFFFFFFFF bytes), and an MP3 file without a Xing header cut between two frames.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

_UNKNOWN_SIZE = 0xFFFFFFFF
_MPEG1_KBITS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MPEG2_KBITS = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class ContainerError(ValueError):
    """A damaged container; the message continues "audio file X …"."""


def check_container(source: Path | BinaryIO, kind: str) -> int | None:
    """Raise a ContainerError for a cut WAV or MP3 file, or a cut or damaged Ogg file.

    Args:
        source: the file, or an open one, whose position then stays as it is.
        kind: "wav", "flac", "ogg" or "mp3", as libsndfile recognised it.

    Returns:
        The number of samples per channel, where libsndfile's own number is a guess: for MP3 without
        a Xing header. None elsewhere.

    Raises:
        ContainerError: saying what is wrong and what to do.

    """
    if kind == "flac":
        return None
    if isinstance(source, Path):
        with open(source, "rb") as file:
            return check_container(file, kind)
    position = source.tell()
    try:
        size = source.seek(0, os.SEEK_END)
        source.seek(0)
        if kind == "wav":
            _check_wav(source, size)
        elif kind == "ogg":
            _check_ogg(source)
        else:
            return _count_mp3(source, size)
    finally:
        source.seek(position)
    return None


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


def _count_mp3(file: BinaryIO, size: int) -> int | None:
    """Walk the frames of an MP3 file without a Xing, Info or VBRI header; None with one."""
    offset = _skip_id3(file)
    num_samples, first = 0, True
    while frame := _mp3_frame(file, offset):
        length, samples = frame
        if first:
            file.seek(offset)
            start = file.read(min(length, 64))
            if any(tag in start for tag in (b"Xing", b"Info", b"VBRI")):
                return None
            first = False
        if offset + length > size:
            raise ContainerError(
                f"is truncated inside the MP3 frame at byte {offset}; copy or make it again"
            )
        offset += length
        num_samples += samples
    file.seek(offset)
    rest = file.read(8)
    # Not a tag, then something that only the decoder can judge; its own count has to do.
    return num_samples if not rest or rest.startswith((b"TAG", b"APETAGEX", b"LYRICS")) else None


def _skip_id3(file: BinaryIO) -> int:
    """Return where the audio starts behind ID3v2 tags, whose sizes have 7 bits a byte."""
    offset = 0
    while (header := file.read(10))[:3] == b"ID3" and len(header) == 10:
        tag = sum(byte << shift for byte, shift in zip(header[6:], (21, 14, 7, 0), strict=True))
        offset += 10 + tag + (10 if header[5] & 0x10 else 0)
        file.seek(offset)
    return offset


def _mp3_frame(file: BinaryIO, offset: int) -> tuple[int, int] | None:
    """Return (bytes, samples per channel) of the layer III frame at offset; None if none is there."""
    file.seek(offset)
    header = file.read(4)
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return None
    version = header[1] >> 3 & 3  # 3 = MPEG 1, 2 = MPEG 2, 0 = MPEG 2.5
    bitrate_index, rate_index = header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or bitrate_index in (0, 15) or rate_index == 3:
        return None
    kbits = _MPEG1_KBITS if version == 3 else _MPEG2_KBITS
    rate_hz = (44100, 48000, 32000)[rate_index] // {3: 1, 2: 2, 0: 4}[version]
    samples = 1152 if version == 3 else 576
    padding = header[2] >> 1 & 1
    return samples // 8 * kbits[bitrate_index - 1] * 1000 // rate_hz + padding, samples
