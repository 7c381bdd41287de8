"""MP3 as encoders in use write it: with and without a Xing header, of constant and varying bitrate.

imageio-ffmpeg (extra dev) brings an ffmpeg; ffmpeg, sox and lame on the PATH are tried besides.
"""

import shutil
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile

from otreg.data import AudioError, MemoryAudio, Utterance, audio_info, load_audio
from otreg.data._containers import check_container

DURATION_S = 1.5
# What ffmpeg is told, and whether libsndfile can know the length: a Xing or Info header (which
# ffmpeg writes unless told otherwise), or a constant bitrate.
FFMPEG = {
    "default": [],
    "constant 64": ["-b:a", "64k"],
    "constant 320": ["-b:a", "320k"],
    "varying": ["-q:a", "2"],
    "average": ["-abr", "1", "-b:a", "96k"],
    "no reservoir": ["-reservoir", "0"],
    "no ID3v2": ["-id3v2_version", "0"],
    "ID3v1": ["-write_id3v1", "1"],
    "a long ID3v2": ["-metadata", "title=" + "x" * 3000],
    "no Xing": ["-write_xing", "0"],
    "neither": ["-write_xing", "0", "-id3v2_version", "0"],
    "8 kHz": ["-ar", "8000"],
    "11 kHz": ["-ar", "11025"],
    "16 kHz mono": ["-ar", "16000", "-ac", "1", "-b:a", "32k"],
    "22 kHz": ["-ar", "22050"],
}
OTHERS = {
    "sox": (["{source}", "{target}"], ["{source}", "-C", "-4.2", "{target}"]),
    "lame": (
        ["--quiet", "-b", "128", "{source}", "{target}"],  # constant, Info header
        ["--quiet", "-t", "-b", "128", "{source}", "{target}"],  # constant, no header
        ["--quiet", "-V", "4", "{source}", "{target}"],  # varying, Xing header
        ["--quiet", "-p", "-b", "128", "{source}", "{target}"],  # checksums
        ["--quiet", "--freeformat", "-b", "200", "{source}", "{target}"],
    ),
}


def commands():
    """Name -> command, for every encoder at hand."""
    programs = {"own ffmpeg": imageio_ffmpeg.get_ffmpeg_exe(), "ffmpeg": shutil.which("ffmpeg")}
    found = {
        f"{program}: {name}": [path, "-v", "error", "-i", "{source}", *options, "{target}"]
        for program, path in programs.items()
        if path is not None
        for name, options in FFMPEG.items()
    }
    for program, variants in OTHERS.items():
        if path := shutil.which(program):
            for number, options in enumerate(variants):
                found[f"{program} {number}"] = [path, *options]
    return found


COMMANDS = commands()


@pytest.fixture(scope="session")
def encoded(tmp_path_factory):
    """Encode a tone with a swelling loudness, stereo at 44.1 kHz, once a command."""
    folder = tmp_path_factory.mktemp("mp3")
    time_s = np.arange(round(DURATION_S * 44100)) / 44100
    tone = 0.3 * time_s / DURATION_S * np.sin(2 * np.pi * 440 * time_s)
    soundfile.write(folder / "tone.wav", np.stack([tone, tone], axis=1), 44100)

    def encode(name):
        target = folder / f"{list(COMMANDS).index(name)}.mp3"
        if not target.is_file():
            names = {"source": folder / "tone.wav", "target": target}
            command = [part.format(**names) for part in COMMANDS[name]]
            subprocess.run(command, check=True, capture_output=True)
        return target

    return encode


def utterance(path):
    return Utterance("u1", path, "x", "en", source="m.jsonl:7")


def refuse(path, message):
    with pytest.raises(AudioError, match=message) as caught:
        load_audio(utterance(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", COMMANDS)
def test_bytes_give_what_the_file_gives(encoded, name):
    path = encoded(name)
    held = utterance(MemoryAudio("row 3", path.read_bytes()))
    np.testing.assert_array_equal(load_audio(held), load_audio(utterance(path)))


@pytest.mark.parametrize("name", COMMANDS)
def test_what_encoders_write_is_read_in_full(encoded, name):
    path = encoded(name)
    samples = load_audio(utterance(path))
    assert len(samples) == audio_info(utterance(path)).num_samples
    # Without a header that says so, the encoder's padding (up to three frames) stays.
    assert (
        -1
        <= len(samples) - DURATION_S * 16000
        <= 3 * 1152 * 16000 / audio_info(utterance(path)).sample_rate_hz
    )
    time_s = np.arange(24000) / 16000
    envelope = 0.3 * time_s / DURATION_S
    loudness = np.abs(np.lib.stride_tricks.sliding_window_view(samples, 160)).max(axis=1)
    assert np.abs(loudness[3000:21000] - envelope[3000:21000]).max() < 0.04


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("kept", [0.97, 0.6])
def test_what_encoders_write_is_refused_when_cut(encoded, tmp_path, name, kept):
    content = encoded(name).read_bytes()
    path = tmp_path / "cut.mp3"
    path.write_bytes(content[: int(len(content) * kept)])
    refuse(path, "truncated")


def test_a_varying_bitrate_without_a_header_is_refused_for_that_reason(tmp_path, encoded):
    source = encoded("own ffmpeg: default").with_name("tone.wav")
    path = tmp_path / "a.mp3"
    options = ["-v", "error", "-i", source, "-write_xing", "0", "-q:a", "4", path]
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *options], check=True)
    refuse(path, "varies its bitrate and has no Xing header")


def write_mp3_without_xing_header(path, amplitudes, rate_hz=16000, **options):
    noise = 0.1 * np.random.default_rng(0).standard_normal(rate_hz * len(amplitudes))
    soundfile.write(path, noise * np.repeat(amplitudes, rate_hz), rate_hz, **options)
    content = path.read_bytes()
    end_of_tag_frame = content.index(b"\xff" + content[1:2], 4)
    assert b"Xing" in content[:end_of_tag_frame] or b"Info" in content[:end_of_tag_frame]
    path.write_bytes(content[end_of_tag_frame:])


@pytest.mark.parametrize("rate_hz", [8000, 16000, 22050, 44100, 48000])
def test_an_mp3_file_without_xing_header_is_read_in_full_and_its_cut_is_seen(tmp_path, rate_hz):
    path = tmp_path / "a.mp3"
    options = {"bitrate_mode": "CONSTANT", "compression_level": 0.5}
    write_mp3_without_xing_header(path, [1, 1], rate_hz, **options)
    whole, _ = soundfile.read(path)
    info = audio_info(utterance(path))
    assert info.stop == len(whole) >= 2 * rate_hz
    assert len(load_audio(utterance(path))) == info.num_samples
    content = path.read_bytes()
    path.write_bytes(b"ID3\x03\0\0\0\0\x01\x02" + bytes(130) + content + b"TAG" + bytes(125))
    assert audio_info(utterance(path)).stop == info.stop
    path.write_bytes(content[:-50])
    refuse(path, "truncated inside the MP3 frame at byte")


def test_an_mp3_file_whose_length_libsndfile_overestimates_is_read_in_full(tmp_path):
    path = tmp_path / "a.mp3"
    options = {"bitrate_mode": "VARIABLE", "compression_level": 0.5}
    write_mp3_without_xing_header(path, [0, 1, 1, 0.1], **options)
    assert soundfile.info(path).frames > 1.5 * 64000
    assert len(load_audio(utterance(path))) == audio_info(utterance(path)).stop
    assert 64000 <= audio_info(utterance(path)).stop < 66000


def test_an_mp3_file_whose_length_libsndfile_underestimates_is_refused(tmp_path):
    path = tmp_path / "a.mp3"
    options = {"bitrate_mode": "VARIABLE", "compression_level": 0.5}
    write_mp3_without_xing_header(path, [1, 0, 0, 0], **options)
    assert soundfile.info(path).frames < 60000
    refuse(path, "no Xing header, so it cannot be decoded in full; convert it to flac")


@pytest.mark.parametrize("tag", [b"Xing", b"Info", b"VBRI"])
def test_a_header_frame_by_any_name_leaves_the_count_to_the_decoder(tmp_path, tag):
    # Two silent frames made by hand, MPEG 1 layer III, 128 kbit/s, 44.1 kHz, mono: 417 bytes each.
    frame = b"\xff\xfb\x90\xc4"
    plain = frame.ljust(417, b"\0")
    header = (frame.ljust(36 if tag == b"VBRI" else 21, b"\0") + tag).ljust(417, b"\0")
    path = tmp_path / "a.mp3"
    path.write_bytes(header + plain)
    assert check_container(path, "mp3") is None
    for frames in (plain + plain, plain + header):  # speech may hold these letters by chance
        path.write_bytes(frames)
        assert check_container(path, "mp3") == 2 * 1152
