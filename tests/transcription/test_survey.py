"""The pass over a recording: levels, and memory that does not grow with its length."""

from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np
import pytest
import soundfile
import spoken_words

from otreg.data.audio import AudioError, load_audio, stream_audio
from otreg.data.utterance import Utterance
from otreg.transcription.survey import SILENCE_DB, measure_levels, survey


def span(path: Path, start_s: float | None = None, end_s: float | None = None) -> Utterance:
    return Utterance("u", path, start_s=start_s, end_s=end_s)


@pytest.mark.parametrize("size", [1, 319, 320, 1000, 48_000])
def test_levels_do_not_depend_on_blocks(size: int) -> None:
    samples = np.random.default_rng(0).standard_normal(16_050).astype(np.float32)
    samples[3200:6400] = 0
    blocks = (samples[first : first + size] for first in range(0, len(samples), size))
    levels = measure_levels(blocks)
    assert len(levels) == 51
    power = [
        np.mean(samples[first : first + 320].astype(float) ** 2) for first in range(0, 16_050, 320)
    ]
    expected = 10 * np.log10(np.maximum(power, 1e-10))
    assert levels == pytest.approx(expected, abs=1e-3)
    assert set(levels[10:20]) == {SILENCE_DB}


@pytest.mark.parametrize("minutes", [1, 60])
def test_one_block_is_held_at_a_time_whatever_the_length(minutes: int) -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def blocks():
        nonlocal most
        for _ in range(minutes * 6):
            block = np.zeros(160_000, dtype=np.float32)
            alive.append(weakref.ref(block))
            most = max(most, sum(reference() is not None for reference in alive))
            yield block
            del block

    assert len(measure_levels(blocks())) == minutes * 3000
    assert most <= 2


@pytest.mark.parametrize("name", ["a.wav", "a.ogg"])
def test_a_file_is_streamed_in_blocks_of_one_size(tmp_path: Path, name: str) -> None:
    sizes = []
    for seconds in (20, 80):
        path = spoken_words.write(tmp_path / name, np.zeros(seconds * 44_100), rate_hz=16_000)
        blocks = [len(block) for block in stream_audio(span(path))]
        assert sum(blocks) == seconds * 44_100
        sizes.append(max(blocks))
    assert sizes[0] == sizes[1] < 20 * 16_000


@pytest.mark.parametrize(
    ("name", "rate_hz", "channels"),
    [
        ("a.wav", 16_000, 1),
        ("a.wav", 44_100, 2),
        ("a.flac", 22_050, 1),
        ("a.mp3", 44_100, 2),
        ("a.ogg", 48_000, 2),
    ],
)
@pytest.mark.parametrize("part", [(None, None), (7.1, 19.3)])
def test_streamed_blocks_are_what_load_audio_gives(tmp_path, name, rate_hz, channels, part) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal((rate_hz * 20, channels))
    soundfile.write(tmp_path / name, noise, rate_hz)
    streamed = np.concatenate(list(stream_audio(span(tmp_path / name, *part))))
    whole = load_audio(span(tmp_path / name, *part))
    assert streamed.dtype == whole.dtype == np.float32
    np.testing.assert_allclose(streamed, whole, atol=1e-6)
    if part[0] is not None and name.endswith(("mp3", "ogg")):  # the same place of the file
        samples, _ = soundfile.read(tmp_path / name, always_2d=True)
        mono = samples.mean(1)[round(7.1 * rate_hz) : round(19.3 * rate_hz)]
        import soxr

        np.testing.assert_allclose(whole, soxr.resample(mono, rate_hz, 16_000), atol=1e-3)


def test_what_is_damaged_ends_the_stream_with_an_error(tmp_path: Path) -> None:
    samples = 0.1 * np.random.default_rng(0).standard_normal(16_000 * 30)
    samples[16_000 * 25] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"NaN or infinite samples, the first at 25\.000 s"):
        list(stream_audio(span(tmp_path / "a.wav")))
    with pytest.raises(AudioError, match="NaN"):
        survey(span(tmp_path / "a.wav"), tmp_path)
    soundfile.write(tmp_path / "a.flac", 0.1 * np.nan_to_num(samples), 16_000)
    content = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match=r"truncated|cannot be decoded"):
        list(stream_audio(span(tmp_path / "a.flac")))


def test_a_copy_holds_the_samples_of_an_ogg_file_even_beyond_full_scale(tmp_path: Path) -> None:
    loud = 1.3 * np.sin(np.arange(44_100 * 3) / 20)
    with soundfile.SoundFile(tmp_path / "a.ogg", "w", 44_100, 1) as file:
        file.write(loud)
    found = survey(span(tmp_path / "a.ogg"), tmp_path)
    assert found.audio != tmp_path / "a.ogg"
    whole = load_audio(span(tmp_path / "a.ogg"))
    np.testing.assert_array_equal(load_audio(span(found.audio)), whole)
    assert np.abs(whole).max() > 1.1
    assert found.duration_s == pytest.approx(3)


def test_a_full_disk_is_an_error_with_the_remedy(tmp_path: Path, monkeypatch) -> None:
    path = spoken_words.write(tmp_path / "a.ogg", spoken_words.speak(["ant"]))

    def full(self, data):
        if self.mode == "w":
            raise OSError("No space left on device")

    monkeypatch.setattr(soundfile.SoundFile, "write", full)
    with pytest.raises(OSError, match=r"temporary copy.*No space left.*TMPDIR"):
        survey(span(path), tmp_path)
