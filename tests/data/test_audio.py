import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from otreg.data import (
    SAMPLE_RATE_HZ,
    AudioError,
    Utterance,
    audio_info,
    load_audio,
    read_manifest,
)

FORMATS = {
    "wav": {},
    "flac": {},
    "ogg": {},
    "mp3": {},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "rf64": {"format": "RF64"},
}
CUTTABLE = ["wav", "flac", "ogg", "mp3", "opus", "rf64"]


def utterance(path, **changes):
    return Utterance("u1", Path(path), "x", "en", source="m.jsonl:7", **changes)


def refuse(path, message, **options):
    changes = options.pop("changes", {})
    with pytest.raises(AudioError, match=message) as caught:
        load_audio(utterance(path, **changes), **options)
    assert "m.jsonl:7" in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("extension", FORMATS)
def test_every_format_gives_the_same_tone_at_16_khz(tmp_path, write_tone, extension):
    path = write_tone(tmp_path / f"a.{extension}", rate_hz=48000, channels=2, **FORMATS[extension])
    samples = load_audio(utterance(path))
    assert samples.dtype == np.float32
    assert samples.shape == (SAMPLE_RATE_HZ,)
    assert audio_info(utterance(path)).num_samples == SAMPLE_RATE_HZ
    time_s = np.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    tone = 0.3 * np.sin(2 * np.pi * 440 * time_s)
    middle = slice(2000, 14000)
    assert np.abs(samples - tone)[middle].max() < 0.02


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_the_sample_type_of_the_file_does_not_change_the_scale(tmp_path, write_tone, subtype):
    samples = load_audio(utterance(write_tone(tmp_path / "a.wav", subtype=subtype)))
    assert abs(np.abs(samples).max() - 0.3) < 0.01


def test_channels_are_averaged(tmp_path):
    left = np.linspace(-0.5, 0.5, 400_000)
    soundfile.write(tmp_path / "a.wav", np.stack([left, 0 * left], 1), 16000, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(utterance(tmp_path / "a.wav")), left / 2, atol=1e-7)


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3", "opus"])
def test_a_segment_is_that_part_of_the_file(tmp_path, write_tone, extension):
    path = write_tone(tmp_path / f"a.{extension}", duration_s=9.0, **FORMATS[extension])
    whole = load_audio(utterance(path))
    for start_s in (0.5, 2.25, 5.03125, 7.75):
        part = load_audio(utterance(path, start_s=start_s, end_s=start_s + 0.75))
        first = round(start_s * 16000)
        np.testing.assert_allclose(part, whole[first : first + 12000], atol=1e-5)
    assert len(load_audio(utterance(path, start_s=8.5))) == 8000
    assert len(load_audio(utterance(path, end_s=0.25))) == 4000


@pytest.mark.parametrize(("rate_hz", "num_samples"), [(8000, 777), (22050, 22051), (44100, 999)])
def test_the_header_foretells_the_number_of_samples(tmp_path, rate_hz, num_samples):
    soundfile.write(tmp_path / "a.wav", np.full(num_samples, 0.1), rate_hz)
    item = utterance(tmp_path / "a.wav")
    assert audio_info(item).num_samples == len(load_audio(item))
    assert audio_info(item).duration_s == num_samples / rate_hz


@pytest.mark.parametrize(
    "changes",
    [
        {"start_s": 1.0},
        {"start_s": 5.0, "end_s": 6.0},
        {"end_s": 1.02},
        {"start_s": 0.5, "end_s": 3.0},
    ],
)
def test_a_segment_outside_the_file_is_refused(tmp_path, write_tone, changes):
    path = write_tone(tmp_path / "a.wav")
    refuse(path, r"lasts 1\.000 s, so (start|end)_s .* lies outside", changes=changes)


def test_an_end_rounded_up_by_milliseconds_is_the_end_of_the_file(tmp_path, write_tone):
    path = write_tone(tmp_path / "a.wav", duration_s=0.9996)
    assert len(load_audio(utterance(path, end_s=1.0))) == round(0.9996 * 16000)


def test_a_segment_without_a_sample_is_refused(tmp_path, write_tone):
    path = write_tone(tmp_path / "a.wav")
    refuse(path, "has no sample between", changes={"start_s": 0.5, "end_s": 0.500001})


def test_long_audio_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.flac", np.zeros(16000 * 700, dtype=np.int16), 16000)

    def read(*_, **__):
        raise AssertionError("decoded")

    monkeypatch.setattr(soundfile.SoundFile, "read", read)
    refuse(
        tmp_path / "a.flac", r"700\.0 s, above max_duration_s 600; cut it with start_s and end_s"
    )
    with pytest.raises(AudioError, match="raise max_duration_s"):
        audio_info(utterance(tmp_path / "a.flac"))
    assert audio_info(utterance(tmp_path / "a.flac"), max_duration_s=700).duration_s == 700


def test_a_short_segment_of_long_audio_is_fine(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.zeros(16000 * 700, dtype=np.int16), 16000)
    item = utterance(tmp_path / "a.flac", start_s=650, end_s=650.5)
    assert len(load_audio(item)) == 8000


@pytest.mark.parametrize("extension", CUTTABLE)
@pytest.mark.parametrize("kept", [0.995, 0.9, 0.5, 0.1, 0.01])
def test_a_truncated_file_is_refused(tmp_path, extension, kept):
    noise = 0.1 * np.random.default_rng(0).standard_normal(32000)
    whole = tmp_path / f"whole.{extension}"
    soundfile.write(whole, noise, 16000, **FORMATS[extension])
    path = tmp_path / f"a.{extension}"
    path.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * kept)])
    refuse(path, "truncated|cannot be decoded|cannot be opened|holds no samples")


@pytest.mark.parametrize("extension", ["flac", "ogg", "opus"])
def test_damage_inside_a_file_with_checksums_is_refused(tmp_path, extension):
    noise = 0.1 * np.random.default_rng(0).standard_normal(32000)
    path = tmp_path / f"a.{extension}"
    soundfile.write(path, noise, 16000, **FORMATS[extension])
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(byte ^ 0x5A for byte in content[middle : middle + 40])
    path.write_bytes(content)
    refuse(path, "damaged|cannot be decoded|cannot be opened")


def test_a_page_of_ogg_that_is_none_is_refused_with_its_place(tmp_path):
    path = tmp_path / "a.ogg"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(64000), 16000)
    content = path.read_bytes()
    place = content.rindex(b"OggS")
    path.write_bytes(content[:place] + b"OggX" + content[place + 4 :])
    refuse(path, f"no Ogg page at byte {place}")
    path.write_bytes(content + b"OggS")  # the beginning of a page, at the end of the file
    refuse(path, f"no Ogg page at byte {len(content)}")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused_with_their_time(tmp_path, bad):
    samples = np.zeros((16000, 2), dtype=np.float32)
    samples[8000, 1] = bad
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    refuse(tmp_path / "a.wav", r"NaN or infinite samples, the first at 0\.500 s")


@pytest.mark.parametrize("extension", ["wav", "flac"])
def test_a_file_without_samples_is_refused(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    soundfile.write(path, np.zeros(0, dtype=np.float32), 16000)
    refuse(path, r"holds no samples|is empty \(0 bytes\)")


def test_audio_below_one_sample_at_16_khz_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(1), 48000)
    refuse(tmp_path / "a.wav", "is too short")


def test_what_is_no_audio_file_is_refused(tmp_path):
    (tmp_path / "empty.wav").write_bytes(b"")
    refuse(tmp_path / "empty.wav", r"is empty \(0 bytes\)")
    (tmp_path / "text.wav").write_text("not audio at all, only its name says so")
    refuse(tmp_path / "text.wav", "cannot be opened")
    refuse(tmp_path / "absent.wav", "does not exist")
    refuse(tmp_path, "does not exist or is no file")
    os.mkfifo(tmp_path / "pipe.wav")
    refuse(tmp_path / "pipe.wav", "does not exist or is no file")


def test_other_formats_are_refused_by_name(tmp_path, write_tone):
    refuse(write_tone(tmp_path / "a.aiff"), "is AIFF; expected wav, flac, ogg or mp3")
    (tmp_path / "a.raw").write_bytes(bytes(100))
    refuse(tmp_path / "a.raw", "cannot be opened")


def test_an_absurd_sample_rate_is_refused(tmp_path, write_tone):
    path = write_tone(tmp_path / "a.wav")
    content = bytearray(path.read_bytes())
    content[24:28] = struct.pack("<I", 2_000_000_000)
    path.write_bytes(content)
    refuse(path, "claims 2000000000 samples a second")


def test_a_streamed_wav_of_unknown_length_is_read_to_its_end(tmp_path, write_tone):
    path = write_tone(tmp_path / "a.wav", subtype="PCM_16")
    content = bytearray(path.read_bytes())
    assert content[36:40] == b"data"
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert len(load_audio(utterance(path))) == 16000


def test_chunks_before_the_samples_are_stepped_over(tmp_path, write_tone):
    content = write_tone(tmp_path / "a.wav", subtype="PCM_16").read_bytes()
    extra = b"LIST" + struct.pack("<I", 5) + b"hello\0"
    path = tmp_path / "b.wav"
    path.write_bytes(
        b"RIFF" + struct.pack("<I", len(content) - 8 + len(extra)) + content[8:36] + extra
        + content[36:]
    )  # fmt: skip
    assert len(load_audio(utterance(path))) == 16000
    path.write_bytes(path.read_bytes()[:-1000])
    refuse(path, "truncated: its header promises 32000 bytes of samples, 31000 are there")


def test_real_recordings_load_in_full(real_speech):
    for item in read_manifest(real_speech / "lj" / "manifest.jsonl"):
        samples = load_audio(item)
        assert len(samples) == audio_info(item).num_samples
        assert 0.01 < np.sqrt(np.mean(samples**2)) < 0.5
    digits = read_manifest(real_speech / "fsdd" / "manifest.jsonl")[::97]
    assert all(0.1 < audio_info(item).duration_s < 3 for item in digits)
    assert all(np.abs(load_audio(item)).max() > 0.01 for item in digits)


def test_importing_the_data_section_imports_no_audio_package():
    code = (
        "import sys, otreg.data; "
        "print([m for m in ('soundfile', 'soxr', 'jiwer') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
