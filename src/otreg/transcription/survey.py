"""One pass over a recording, block by block: how loud it is where, and a file to cut from.

Memory holds one block and one number per 20 ms: 0.7 MB an hour.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from otreg.data.audio import SAMPLE_RATE_HZ, audio_info, stream_audio
from otreg.data.utterance import AudioSpan

FRAME_S = 0.02
SILENCE_DB = -100.0  # of a frame of zeros
_FRAME_SAMPLES = round(FRAME_S * SAMPLE_RATE_HZ)


@dataclass(frozen=True)
class Survey:
    """What a pass over a recording found.

    Args:
        audio: the file that chunks are cut from: the recording, or a copy of it, see `survey`.
        offset_s: where the recording starts in that file, in seconds.
        duration_s: of the recording.
        levels_db: (frames,) the power of each 20 ms in decibels of full scale, at least
            SILENCE_DB; the last frame may be shorter.

    """

    audio: Path
    offset_s: float
    duration_s: float
    levels_db: np.ndarray


def survey(span: AudioSpan, folder: str | Path) -> Survey:
    """Decode a recording once and measure its levels.

    An ogg or mp3 file is decoded from its start for every span of it, an hour in chunks so in time
    that grows with its square. Of such a file the pass writes a copy, 16 kHz, mono, of 32-bit
    floats (230 MB an hour), whose chunks are what the file itself would have given.

    Args:
        span: the recording, of any length.
        folder: where a copy may be written, for the caller to remove.

    Returns:
        Levels, duration, and the file to cut from.

    Raises:
        AudioError: audio that cannot be decoded in full.
        OSError: the copy cannot be written.

    """
    info = audio_info(span, max_duration_s=float("inf"))
    assert span.audio is not None  # audio_info has refused it
    blocks = stream_audio(span)
    if not info.from_start:
        levels = measure_levels(blocks)
        return Survey(Path(span.audio), span.start_s or 0.0, info.duration_s, levels)
    handle = tempfile.NamedTemporaryFile(  # noqa: SIM115 (the caller's folder holds it)
        dir=folder, prefix="recording-", suffix=".wav", delete=False
    )
    handle.close()
    copy = Path(handle.name)
    with _writer(copy) as write:
        levels = measure_levels(_each(blocks, write))
    return Survey(copy, 0.0, info.num_samples / SAMPLE_RATE_HZ, levels)


def measure_levels(blocks: Iterator[np.ndarray]) -> np.ndarray:
    """The power of every frame of 20 ms, in decibels of full scale.

    Args:
        blocks: (samples,) each, of any length, at 16 kHz.

    Returns:
        (frames,) float32, at least SILENCE_DB; the last frame may be of fewer samples.

    """
    levels = [np.zeros(0, dtype=np.float32)]
    rest = np.zeros(0, dtype=np.float32)
    for block in blocks:
        samples = np.concatenate([rest, block])
        whole = len(samples) // _FRAME_SAMPLES * _FRAME_SAMPLES
        levels.append(_levels_db(samples[:whole].reshape(-1, _FRAME_SAMPLES)))
        rest = samples[whole:]
    if len(rest):
        levels.append(_levels_db(rest[None]))
    return np.concatenate(levels)


def _levels_db(frames: np.ndarray) -> np.ndarray:
    """(frames,) of (frames, samples)."""
    power = np.mean(np.square(frames, dtype=np.float64), axis=1)
    levels: np.ndarray = 10 * np.log10(np.maximum(power, 10 ** (SILENCE_DB / 10)))
    return levels.astype(np.float32)


def _each(
    blocks: Iterator[np.ndarray], write: Callable[[np.ndarray], None]
) -> Iterator[np.ndarray]:
    for block in blocks:
        write(block)
        yield block


@contextmanager
def _writer(path: Path) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that appends samples to a WAV file, which may grow beyond 4 GiB (RF64)."""
    import soundfile

    def failed(error: Exception) -> OSError:
        return OSError(
            f"cannot write the temporary copy of a recording, {path} ({error}); 230 MB an hour are "
            "needed: free the disk, or name another folder by the environment variable TMPDIR"
        )

    try:
        file = soundfile.SoundFile(path, "w", SAMPLE_RATE_HZ, 1, subtype="FLOAT", format="RF64")
    except (RuntimeError, OSError) as error:
        raise failed(error) from error

    def write(block: np.ndarray) -> None:
        try:
            file.write(block)
        except (RuntimeError, OSError) as error:
            raise failed(error) from error

    with file:
        yield write
