"""Audio files to mono float32 samples at 16 kHz, or an error that names file and manifest line.

The header is checked before anything is decoded: a 363 KB FLAC can hold two hours. What a decoder
passes over in silence (a cut WAV, Ogg or MP3 file, NaN samples, no samples) is an error here.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from otreg.data._containers import ContainerError, check_container
from otreg.data.audio_bytes import AudioBytes
from otreg.data.av_audio import HEAD_BYTES, AvFile, TooLongError, recognised
from otreg.data.utterance import AudioSpan

if TYPE_CHECKING:
    import soundfile

SAMPLE_RATE_HZ = 16000
MAX_DURATION_S = 600.0
END_TOLERANCE_S = 0.01  # end_s may pass the file's end by this much: durations come rounded
FORMATS = {"WAV": "wav", "WAVEX": "wav", "RF64": "wav", "FLAC": "flac", "OGG": "ogg", "MP3": "mp3"}
FORMATS |= {"M4A": "m4a", "WEBM": "webm", "AAC": "aac"}  # by PyAV, see `otreg.data.av_audio`
SUFFIXES = ("wav", "flac", "ogg", "oga", "opus", "mp3", "m4a", "mp4", "webm", "aac")
"""What the names of sound files end in."""

_MIN_RATE_HZ, _MAX_RATE_HZ = 1000, 768000
_BLOCK_SAMPLES = 1 << 18
_UNSEEKABLE = ("ogg", "mp3", "m4a", "webm", "aac")


class AudioError(ValueError):
    """Audio that cannot be used; the message names the file and, where known, the manifest line."""


@dataclass(frozen=True)
class AudioInfo:
    """What an audio file's header says of a span of it, before decoding.

    Args:
        sample_rate_hz: the file's own rate.
        num_channels: the file's channels.
        start: the utterance's first sample, at the file's rate.
        stop: the one after its last.
        from_start: whether every span is decoded from the file's beginning, as in ogg and mp3.

    """

    sample_rate_hz: int
    num_channels: int
    start: int
    stop: int
    from_start: bool = False

    @property
    def duration_s(self) -> float:
        """Length of the utterance in seconds."""
        return (self.stop - self.start) / self.sample_rate_hz

    @property
    def num_samples(self) -> int:
        """Number of samples that `load_audio` returns, at 16 kHz."""
        return resampled_length(self.stop - self.start, self.sample_rate_hz)


def resampled_length(num_samples: int, sample_rate_hz: int) -> int:
    """Number of samples at 16 kHz that `num_samples` at another rate become (soxr's rounding)."""
    return (2 * num_samples * SAMPLE_RATE_HZ + sample_rate_hz) // (2 * sample_rate_hz)


def resample(samples: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """(samples,) at 16 kHz of (samples,) at another rate, by soxr in high quality."""
    if sample_rate_hz == SAMPLE_RATE_HZ:
        return samples
    import soxr

    resampled: np.ndarray = soxr.resample(samples, sample_rate_hz, SAMPLE_RATE_HZ, quality="HQ")
    return resampled


def audio_info(span: AudioSpan, *, max_duration_s: float = MAX_DURATION_S) -> AudioInfo:
    """Check the audio file of an utterance or clip by its header, without decoding it.

    Args:
        span: what to look at.
        max_duration_s: longest utterance that is accepted, in seconds (its segment where it has
            one). The default keeps one damaged or hostile header from filling the memory.

    Returns:
        Rate, channels and the span of samples that belong to the utterance.

    Raises:
        AudioError: for anything that cannot be decoded in full.

    """
    file, num_frames = _open(span, max_duration_s)
    with file:
        return _info(file, num_frames, span, max_duration_s)


def load_audio(span: AudioSpan, *, max_duration_s: float = MAX_DURATION_S) -> np.ndarray:
    """Decode an utterance or clip: channels averaged, resampled to 16 kHz (soxr, high quality).

    Args:
        span: what to load; only its segment is decoded where it has one.
        max_duration_s: as in `audio_info`.

    Returns:
        (samples,) float32, at SAMPLE_RATE_HZ, in the file's own scale (full scale = 1).

    Raises:
        AudioError: for anything that cannot be decoded in full, and for NaN or infinite samples.

    """
    file, num_frames = _open(span, max_duration_s)
    with file:
        info = _info(file, num_frames, span, max_duration_s)
        samples = np.empty(info.stop - info.start, dtype=np.float32)
        done = 0
        for block in _decode(file, info, span):
            samples[done : done + len(block)] = block
            done += len(block)
    samples = resample(samples, info.sample_rate_hz)
    if len(samples) == 0:
        raise _error(span, f"is too short: {info.duration_s:.6f} s is no sample at 16 kHz")
    return np.ascontiguousarray(samples, dtype=np.float32)


def stream_audio(span: AudioSpan, *, max_duration_s: float = math.inf) -> Iterator[np.ndarray]:
    """Decode an utterance or clip of any length, holding one block of it at a time.

    Args:
        span: what to decode; only its segment where it has one.
        max_duration_s: as in `audio_info`.

    Yields:
        (samples,) float32 at 16 kHz. Joined, the blocks are what `load_audio` returns.

    Raises:
        AudioError: as `load_audio`, once the damaged place is reached.

    """
    import soxr

    file, num_frames = _open(span, max_duration_s)
    with file:
        info = _info(file, num_frames, span, max_duration_s)
        if info.sample_rate_hz == SAMPLE_RATE_HZ:
            yield from _decode(file, info, span)
            return
        resampler = soxr.ResampleStream(
            info.sample_rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32", quality="HQ"
        )
        for block in _decode(file, info, span):
            yield resampler.resample_chunk(block)
        yield resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True)


def _error(span: AudioSpan, problem: str) -> AudioError:
    return AudioError(f"{span.name}: audio file {span.audio} {problem}")


def _too_long(span: AudioSpan, found: str, max_duration_s: float) -> AudioError:
    return _error(
        span,
        f"{found}, above max_duration_s {max_duration_s:g}; cut it with start_s and end_s (otreg "
        "prepare split), or raise max_duration_s",
    )


def _open(span: AudioSpan, max_duration_s: float) -> tuple[soundfile.SoundFile, int]:
    """Open a file that is intact as far as its container tells; with its samples per channel.

    What PyAV decodes to be counted is refused here where it is longer than max_duration_s; of a file
    with end_s all is counted, since it may be longer than its utterance.
    """
    import soundfile

    if span.audio is None:
        raise AudioError(f"{span.name} has no audio; expected an audio file")
    source = _source(span)
    if kind := recognised(_head(source)):
        try:
            to_end_s = (span.start_s or 0.0) + max_duration_s
            longest_s = to_end_s if span.end_s is None else math.inf
            decoded: Any = AvFile(source, kind, longest_s=max(0.0, longest_s))
        except TooLongError as error:
            raise _too_long(span, str(error), max_duration_s) from error
        except ContainerError as error:
            raise _error(span, str(error)) from error
        return decoded, decoded.frames
    try:
        file = _stream_class()(source)
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        raise _error(
            span, f"cannot be opened ({error}); expected an intact wav, flac, ogg or mp3 file"
        ) from error
    try:
        if file.format not in FORMATS:
            raise _error(
                span,
                f"is {file.format}; expected wav, flac, ogg or mp3: convert it, e.g. to flac",
            )
        counted = check_container(source, FORMATS[file.format])
        if counted is not None and counted > file.frames:
            raise ContainerError(
                "varies its bitrate and has no Xing header, so it cannot be decoded in full; "
                "convert it to flac"
            )
    except ContainerError as error:
        file.close()
        raise _error(span, str(error)) from error
    except BaseException:
        file.close()
        raise
    return file, file.frames if counted is None else counted


def _source(span: AudioSpan) -> Path | BinaryIO:
    """What to open: a file that is there, or the bytes, which are not empty."""
    if isinstance(span.audio, AudioBytes):
        try:
            content = span.audio.read()
        except OSError as error:
            raise _error(span, f"cannot be read ({error}); make it again") from error
        size = len(content)
    else:
        path = Path(str(span.audio))
        if not path.is_file():
            raise _error(span, "does not exist or is no file; correct the path")
        size = path.stat().st_size
    if size == 0:
        raise _error(span, "is empty (0 bytes); copy or make it again")
    return io.BytesIO(content) if isinstance(span.audio, AudioBytes) else path


def _head(source: Path | BinaryIO) -> bytes:
    """The first bytes of what is to be opened; its position stays."""
    if isinstance(source, Path):
        with open(source, "rb") as file:
            return file.read(HEAD_BYTES)
    head = source.read(HEAD_BYTES)
    source.seek(0)
    return head


def _info(
    file: soundfile.SoundFile, num_frames: int, span: AudioSpan, max_duration_s: float
) -> AudioInfo:
    rate_hz = file.samplerate
    if not _MIN_RATE_HZ <= rate_hz <= _MAX_RATE_HZ:
        raise _error(
            span,
            f"claims {rate_hz} samples a second; expected {_MIN_RATE_HZ} to {_MAX_RATE_HZ}",
        )
    if num_frames <= 0:
        raise _error(span, "holds no samples; remove the line or make the file again")
    file_s = num_frames / rate_hz
    start_s = span.start_s or 0.0
    end_s = file_s if span.end_s is None else span.end_s
    if start_s < 0 or start_s >= file_s:
        raise _error(span, f"lasts {file_s:.3f} s, so start_s {start_s} lies outside of it")
    if end_s > file_s + END_TOLERANCE_S:
        raise _error(span, f"lasts {file_s:.3f} s, so end_s {end_s} lies outside of it")
    start, stop = round(start_s * rate_hz), min(round(end_s * rate_hz), num_frames)
    info = AudioInfo(
        rate_hz, file.channels, start, stop, from_start=FORMATS[file.format] in _UNSEEKABLE
    )
    if stop <= start:
        raise _error(span, f"has no sample between start_s {start_s} and end_s {end_s}")
    if info.duration_s > max_duration_s:
        raise _too_long(span, f"holds an utterance of {info.duration_s:.1f} s", max_duration_s)
    return info


@functools.cache
def _stream_class() -> type[soundfile.SoundFile]:
    """A SoundFile that reads on from where it is.

    soundfile seeks after every read of a file that says it can seek, and after a seek libsndfile's
    MP3 and Vorbis decoders return samples that are not the file's.
    """
    import soundfile

    class Stream(soundfile.SoundFile):
        def seekable(self) -> bool:
            return False

    return Stream


def _decode(file: soundfile.SoundFile, info: AudioInfo, span: AudioSpan) -> Iterator[np.ndarray]:
    """Decode info's span, averaging channels: blocks of (samples,) at the file's rate, all finite.

    What stands before the span is decoded and dropped where the format has no exact positions.
    """
    at = 0 if info.from_start else info.start
    block_frames = max(1, _BLOCK_SAMPLES // info.num_channels)
    try:
        if not info.from_start:
            file.seek(info.start)
        while at < info.stop:
            wanted = min(block_frames, info.stop - at)
            block = _mix(file.read(wanted, dtype="float32", always_2d=True))
            if len(block) == 0:
                break
            first, at = at, at + len(block)
            if at > info.start:
                block = block[max(0, info.start - first) :]
                _check_finite(block, (at - len(block)) / info.sample_rate_hz, info, span)
                yield block
    except (RuntimeError, OSError, ContainerError) as error:  # LibsndfileError is a RuntimeError
        raise _error(
            span,
            f"cannot be decoded at {at / info.sample_rate_hz:.3f} s ({error}); copy or make it "
            "again",
        ) from error
    if at < info.stop:
        raise _error(
            span,
            f"is truncated: its header promises samples up to {info.stop / info.sample_rate_hz:.3f}"
            f" s, decoding ended at {at / info.sample_rate_hz:.3f} s; copy or make it again",
        )


def _check_finite(block: np.ndarray, start_s: float, info: AudioInfo, span: AudioSpan) -> None:
    if not np.isfinite(block).all():
        first = int(np.flatnonzero(~np.isfinite(block))[0])
        at_s = start_s + first / info.sample_rate_hz
        raise _error(
            span, f"holds NaN or infinite samples, the first at {at_s:.3f} s; write it again"
        )


def _mix(block: np.ndarray) -> np.ndarray:
    """Average the channels of (samples, channels)."""
    return block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
