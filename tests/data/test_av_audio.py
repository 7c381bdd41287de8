"""m4a, webm and aac by PyAV: the same checks as for other sound files. An ffmpeg writes them."""

import subprocess
import sys
from dataclasses import replace

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile

from otreg.data import (
    AudioError,
    MemoryAudio,
    Utterance,
    audio_info,
    export_manifest,
    load_audio,
    read_manifest,
)
from otreg.data.av_audio import AvFile

DURATION_S = 1.5
# Name -> suffix, options, whether the header says how long it is.
ENCODINGS = {
    "m4a": ("m4a", [], True),
    "m4a, header first": ("m4a", ["-movflags", "faststart"], True),
    "m4a, in fragments": ("m4a", ["-movflags", "frag_keyframe+empty_moov"], True),
    "m4a, lossless": ("m4a", ["-c:a", "alac"], True),
    "mp4, 8 kHz": ("mp4", ["-ar", "8000"], True),
    "webm, opus": ("webm", [], True),
    "webm, vorbis": ("webm", ["-c:a", "libvorbis"], True),
    "webm, live": ("webm", ["-live", "1"], False),
    "aac": ("aac", [], False),
}


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """A tone with a swelling loudness, louder on the left than on the right, at 44.1 kHz."""
    folder = tmp_path_factory.mktemp("av")
    time_s = np.arange(round(DURATION_S * 44100)) / 44100
    tone = 0.4 * time_s / DURATION_S * np.sin(2 * np.pi * 440 * time_s)
    soundfile.write(folder / "tone.wav", np.stack([tone, 0.5 * tone], axis=1), 44100)
    made = {}
    for number, (name, (suffix, options, _)) in enumerate(ENCODINGS.items()):
        made[name] = folder / f"{number}.{suffix}"
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", folder / "tone.wav"]
        subprocess.run([*command, *options, made[name]], check=True, capture_output=True)
    return made, load_audio(Utterance("t", folder / "tone.wav", "x", "en"))


def utterance(path):
    return Utterance("u1", path, "x", "en", source="m.jsonl:7")


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_file_is_read_in_full_and_like_its_original(encoded, name):
    files, original = encoded
    samples = load_audio(utterance(files[name]))
    assert len(samples) == audio_info(utterance(files[name])).num_samples
    # aac has no header that says how much of it is the encoder's padding.
    padding = 4 * 1024 * 16000 // 44100 if name == "aac" else 1024 * 16000 // 44100 + 2
    assert 0 <= len(samples) - len(original) <= padding
    lags = range(padding + 1)
    size = len(original) - padding - 1
    likeness = [np.corrcoef(original[:size], samples[lag : lag + size])[0, 1] for lag in lags]
    assert max(likeness) > 0.99
    loudest = np.abs(samples[-2000 - padding : -padding]).max()
    assert loudest == pytest.approx(0.3, rel=0.2)  # the mean of 0.4 and 0.2


def test_a_lossless_file_gives_the_original_s_samples(encoded):
    files, original = encoded
    np.testing.assert_array_equal(load_audio(utterance(files["m4a, lossless"])), original)


@pytest.mark.parametrize("name", ENCODINGS)
def test_bytes_give_what_the_file_gives(encoded, name):
    path = encoded[0][name]
    held = replace(utterance(path), audio=MemoryAudio("row 3", path.read_bytes()))
    np.testing.assert_array_equal(load_audio(held), load_audio(utterance(path)))


def test_a_span_is_the_samples_of_the_whole_file(encoded):
    path = encoded[0]["m4a, lossless"]
    whole, rate_hz = soundfile.read(path.parent / "tone.wav", dtype="float32")
    part = replace(utterance(path), start_s=0.5, end_s=1.0)
    import soxr

    expected = soxr.resample(whole[22050:44100].mean(axis=1), rate_hz, 16000, quality="HQ")
    np.testing.assert_allclose(load_audio(part), expected, atol=1e-7)
    with pytest.raises(AudioError, match=r"lasts 1\.500 s, so end_s 2\.0 lies outside"):
        load_audio(replace(part, end_s=2.0))
    with pytest.raises(AudioError, match=r"above max_duration_s 1"):
        audio_info(utterance(path), max_duration_s=1.0)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", [name for name, (*_, known) in ENCODINGS.items() if known])
def test_a_truncated_file_is_refused(encoded, tmp_path, name, share):
    content = encoded[0][name].read_bytes()
    path = tmp_path / encoded[0][name].name
    path.write_bytes(content[: int(share * len(content))])
    for use in (load_audio, audio_info):
        with pytest.raises(AudioError, match=r"m\.jsonl:7: .*(truncated|no samples)") as caught:
            use(utterance(path))
        assert str(path) in str(caught.value)


def test_aac_cut_inside_a_frame_is_refused(encoded, tmp_path):
    content = encoded[0]["aac"].read_bytes()
    (tmp_path / "a.aac").write_bytes(content[:-50])
    with pytest.raises(AudioError, match=r"a\.aac is damaged or truncated at"):
        load_audio(utterance(tmp_path / "a.aac"))


def test_two_audio_streams_are_refused(encoded, tmp_path):
    source = encoded[0]["m4a"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", source, "-i", source]
    maps = ["-map", "0:a", "-map", "1:a", "-c", "copy", tmp_path / "two.m4a"]
    subprocess.run([*command, *maps], check=True, capture_output=True)
    with pytest.raises(AudioError, match=r"two\.m4a has 2 audio streams; expected one"):
        load_audio(utterance(tmp_path / "two.m4a"))


def test_a_playlist_with_a_familiar_name_is_not_followed(encoded, tmp_path):
    (tmp_path / "list.m4a").write_text(f"ffconcat version 1.0\nfile '{encoded[0]['m4a']}'\n")
    with pytest.raises(AudioError, match=r"list\.m4a cannot be opened"):
        load_audio(utterance(tmp_path / "list.m4a"))


def test_without_pyav_the_error_names_the_extra(encoded, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"reading m4a needs PyAV: pip install 'otreg\[av\]'"):
        load_audio(utterance(encoded[0]["m4a"]))


def test_export_keeps_the_kind_of_a_file(encoded, tmp_path):
    held = replace(utterance(None), audio=MemoryAudio("row", encoded[0]["webm, opus"].read_bytes()))
    export_manifest(tmp_path / "m.jsonl", [held])
    (row,) = read_manifest(tmp_path / "m.jsonl")
    assert row.audio.suffix == ".webm"
    np.testing.assert_array_equal(load_audio(row), load_audio(held))


@pytest.fixture(scope="module")
def silence(tmp_path_factory):
    """A minute of silence as m4a, webm and aac."""
    folder = tmp_path_factory.mktemp("silence")
    soundfile.write(folder / "s.flac", np.zeros(60 * 16000), 16000)
    for name in ("s.m4a", "s.webm", "s.aac"):
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", folder / "s.flac"]
        subprocess.run([*command, folder / name], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize(
    ("name", "most_s", "message"),
    [
        ("s.m4a", 0, r"lasts 60\.\d s, above max_duration_s 3; cut it"),
        ("s.webm", 0, r"lasts 60\.\d s, above max_duration_s 3; cut it"),
        ("s.aac", 4, r"lasts more than 3\.0 s, above max_duration_s 3; cut it"),
    ],
)
def test_what_is_too_long_is_not_decoded(silence, monkeypatch, name, most_s, message):
    decoded_s = []
    blocks = AvFile._blocks

    def counted(self):
        for block in blocks(self):
            decoded_s.append(len(block) / self.samplerate)
            yield block

    monkeypatch.setattr(AvFile, "_blocks", counted)
    for use in (load_audio, audio_info):
        decoded_s.clear()
        with pytest.raises(AudioError, match=message):
            use(utterance(silence / name), max_duration_s=3)
        assert sum(decoded_s) <= most_s


@pytest.mark.parametrize("name", ["s.m4a", "s.webm", "s.aac"])
def test_a_short_span_of_a_long_file_is_read(silence, name):
    whole = utterance(silence / name)
    inside = replace(whole, start_s=30.0, end_s=32.0)
    assert len(load_audio(inside, max_duration_s=3)) == 2 * 16000
    at_the_end = replace(whole, start_s=58.0)
    assert 1.9 < audio_info(at_the_end, max_duration_s=3).duration_s < 2.3
    with pytest.raises(AudioError, match="above max_duration_s 3"):
        audio_info(replace(whole, start_s=50.0), max_duration_s=3)
