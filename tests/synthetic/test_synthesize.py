"""Synthesis: espeak-ng speaks, in every language; noise and rooms do what they say."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from otreg.synthetic.espeak import phonemes
from otreg.synthetic.synthesize import Condition, Request, Voice, degrade, synthesize_corpus

pytest.importorskip("espeakng_loader")


def _tone(duration_s: float = 1.0) -> np.ndarray:
    time_s = np.arange(int(16000 * duration_s)) / 16000
    return (0.3 * np.sin(2 * np.pi * 440 * time_s)).astype(np.float32)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("spoken")
    text = "the red lamp is on the bridge"
    still = Condition(rate_wpm=160, pause_probability=0.0)
    requests = [
        Request(folder / "a.wav", text, Voice("en-us+m3"), still, 0),
        Request(folder / "again.wav", text, Voice("en-us+m3"), still, 0),
        Request(
            folder / "fast.wav", text, Voice("en-us+m3"), Condition(260, pause_probability=0), 0
        ),
        Request(
            folder / "pauses.wav", text, Voice("en-us+m3"), Condition(160, pause_probability=1), 0
        ),
        Request(folder / "other.wav", text, Voice("en-us+f2"), still, 0),
        Request(folder / "es.wav", "el zapato rojo", Voice("es+m3"), still, 0),
        Request(folder / "de.wav", "der rote schuh", Voice("de+m3"), still, 0),
    ]
    synthesize_corpus(requests)
    return {r.path.stem: soundfile.read(r.path)[0] for r in requests}


def test_speech_is_16_khz_and_repeats_with_the_seed(spoken):
    assert 1.0 < len(spoken["a"]) / 16000 < 4.0
    np.testing.assert_array_equal(spoken["a"], spoken["again"])
    assert np.abs(spoken["a"]).max() == pytest.approx(0.5, abs=0.01)


def test_breathy_voices_repeat_from_process_to_process(tmp_path):
    takes = []
    for take in ("one", "two"):
        path = tmp_path / f"{take}.wav"
        request = Request(path, "the red lamp", Voice("en-us+Alicia"), Condition(), 7)
        synthesize_corpus([request], num_processes=1)
        takes.append(path.read_bytes())
    assert takes[0] == takes[1]


def test_rate_pauses_and_voice_change_the_speech(spoken):
    assert len(spoken["fast"]) < 0.8 * len(spoken["a"])
    assert len(spoken["pauses"]) > len(spoken["a"]) + 16000 * 0.15 * 5
    assert len(spoken["other"]) != len(spoken["a"])


def test_every_language_speaks(spoken):
    for name in ("es", "de"):
        assert len(spoken[name]) > 8000


@pytest.mark.parametrize("noise", ["white", "pink"])
@pytest.mark.parametrize("snr_db", [0.0, 20.0])
def test_noise_has_the_asked_ratio(noise, snr_db):
    clean = _tone()
    noisy = degrade(clean, Condition(snr_db=snr_db, noise=noise), np.random.default_rng(0))
    ratio = np.mean(clean**2) / np.mean((noisy - clean) ** 2)
    assert 10 * np.log10(ratio) == pytest.approx(snr_db, abs=0.1)


def test_pink_noise_falls_with_frequency():
    silence = np.full(32768, 1e-3, dtype=np.float32)
    noisy = degrade(silence, Condition(snr_db=-20, noise="pink"), np.random.default_rng(0))
    power = np.abs(np.fft.rfft(noisy - silence)) ** 2
    low, high = power[100:200].mean(), power[10000:10100].mean()
    assert low / high == pytest.approx(10050 / 150, rel=0.5)


def test_reverberation_lasts_as_long_as_asked():
    click = np.zeros(16000, dtype=np.float32)
    click[0] = 1.0
    wet = degrade(click, Condition(reverberation_s=0.3), np.random.default_rng(0))
    assert wet[0] == pytest.approx(1.0, abs=1e-5)
    power = [np.mean(wet[s : s + 160] ** 2) for s in (16, int(0.28 * 16000))]
    assert 10 * np.log10(power[1] / power[0]) == pytest.approx(-55, abs=8)
    assert np.abs(wet[int(0.31 * 16000) :]).max() < 1e-6


def test_unknown_noise_or_voice_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="noise must be white or pink, got 'brown'"):
        degrade(_tone(), Condition(noise="brown"), np.random.default_rng(0))
    request = Request(tmp_path / "a.wav", "hello", Voice("xx+nobody"), Condition(), 0)
    with pytest.raises(ValueError, match="no voice 'xx\\+nobody'"):
        synthesize_corpus([request], num_processes=1)


def test_phonemes_follow_the_sound_not_the_spelling():
    texts, languages = ["knight", "night", "vaca", "baca", "schuh"], ["en", "en", "es", "es", "de"]
    knight, night, vaca, baca, schuh = phonemes(texts, languages)
    assert knight == night
    assert vaca == baca
    assert schuh == ["ʃ", "uː"]
    first, both = phonemes(["one.", "one. two"], ["en", "en"])
    assert both[: len(first)] == first  # a text of several clauses is spelled to its end
    assert len(both) > len(first)
    with pytest.raises(ValueError, match="does not speak the language 'xx-none'"):
        phonemes(["a"], ["xx-none"])
