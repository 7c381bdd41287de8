"""Long recordings: what was said is there, once and in order, whatever the cuts."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import spoken_words
from spoken_words import HANZI, WORDS, Recogniser, pause, speak, write

from otreg.data.audio import AudioError
from otreg.transcription import Options, Transcript, transcribe_recordings

PROCESSOR = SimpleNamespace(feature_extractor=None)


def words_of(rng: np.random.Generator, count: int, names=WORDS) -> list[str]:
    """No word stands twice in a row: how often a word was said cannot be seen in an overlap."""
    words = [str(rng.choice(names))]
    while len(words) < count:
        words.append(str(rng.choice([name for name in names if name != words[-1]])))
    return words


def transcribe(paths, recognise=None, **options) -> list[Transcript]:
    more = {key: options.pop(key) for key in ("language", "batch_size") if key in options}
    return list(
        transcribe_recordings(
            None,
            PROCESSOR,
            paths,
            options=Options(**options),
            recognise=recognise or Recogniser(),
            **more,
        )
    )


def assert_tiles(found: Transcript, most_s: float) -> None:
    """Segments follow each other without a gap."""
    ends = [segment.end_s for segment in found.segments]
    assert [segment.start_s for segment in found.segments] == [0.0, *ends[:-1]]
    assert ends[-1] == pytest.approx(found.duration_s, abs=1e-3)
    assert all(0 < s.end_s - s.start_s <= most_s for s in found.segments)


@pytest.fixture
def talk(tmp_path: Path) -> tuple[Path, list[str]]:
    """Sentences of 1 to 6 words with pauses of 0.25 to 1 s, a minute long."""
    rng = np.random.default_rng(0)
    words, parts = [], [pause(0.4)]
    while sum(map(len, parts)) < 60 * spoken_words.RATE_HZ:
        sentence = words_of(rng, int(rng.integers(1, 7)))
        words += sentence
        parts += [speak(sentence), pause(rng.uniform(0.25, 1))]
    return write(tmp_path / "talk.wav", np.concatenate(parts)), words


@pytest.mark.parametrize("max_chunk_s", [6, 11.3, 25])
def test_cut_in_pauses_every_word_is_there_once_and_nothing_overlaps(talk, max_chunk_s) -> None:
    path, words = talk
    recognise = Recogniser()
    (found,) = transcribe([path], recognise, max_chunk_s=max_chunk_s)
    assert found.text.split() == words
    assert {segment.cut for segment in found.segments} == {"silence", "end"}
    assert_tiles(found, max_chunk_s)
    chunks = [chunk for call in recognise.calls for chunk in call]
    assert [chunk.start_s for chunk in chunks[1:]] == [chunk.end_s for chunk in chunks[:-1]]
    assert len(chunks) <= 2 * found.duration_s / max_chunk_s + 1


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "options",
    [
        {"policy": "silence", "max_chunk_s": 8},
        {"policy": "fixed", "max_chunk_s": 8},
        {"policy": "silence", "max_chunk_s": 5.1, "overlap_s": 2.5},
        {"policy": "fixed", "max_chunk_s": 7.7, "overlap_s": 1.9},
    ],
)
def test_without_a_pause_overlaps_lose_and_double_nothing(tmp_path, seed, options) -> None:
    words = words_of(np.random.default_rng(seed), 110)
    path = write(tmp_path / "a.wav", speak(words))
    (found,) = transcribe([path], **options)
    assert found.text.split() == words
    assert {segment.cut for segment in found.segments} == {"overlap", "end"}
    assert all(segment.matched for segment in found.segments[:-1])
    assert found.segments[-1].matched is None
    assert_tiles(found, options["max_chunk_s"])


def test_the_cut_is_in_speech_only_where_no_pause_is_within_reach(tmp_path) -> None:
    rng = np.random.default_rng(3)
    words = [words_of(rng, count) for count in (12, 60, 14)]
    spoken = [part for sentence in words for part in (speak(sentence), pause(0.6))]
    path = write(tmp_path / "a.wav", np.concatenate(spoken))
    (found,) = transcribe([path], max_chunk_s=6)
    cuts = [segment.cut for segment in found.segments]
    assert found.text.split() == [word for sentence in words for word in sentence]
    assert cuts[0] == "silence"  # after 4.3 s, the second half of six
    assert cuts.count("silence") == 2
    assert "overlap" in cuts


def test_noise_in_the_pauses_hides_none_of_them(talk, tmp_path) -> None:
    import soundfile

    samples, _ = soundfile.read(talk[0])
    noise = 0.01 * np.random.default_rng(0).standard_normal(len(samples))
    path = write(tmp_path / "noisy.wav", samples + noise)
    (found,) = transcribe([path], max_chunk_s=11)
    assert found.text.split() == talk[1]
    assert {segment.cut for segment in found.segments} == {"silence", "end"}


@pytest.mark.parametrize("policy", ["silence", "fixed"])
def test_languages_without_spaces_are_joined_by_characters(tmp_path, policy) -> None:
    characters = words_of(np.random.default_rng(1), 90, HANZI)
    path = write(tmp_path / "a.wav", speak(characters, HANZI))
    recognise = Recogniser(HANZI, separator="")
    (found,) = transcribe([path], recognise, policy=policy, max_chunk_s=8, language="zh")
    assert found.text == "".join(characters)


@pytest.mark.parametrize(
    ("name", "rate_hz", "channels"),
    [("a.flac", 16_000, 1), ("a.wav", 44_100, 2), ("a.mp3", 44_100, 2), ("a.ogg", 22_050, 1)],
)
def test_every_format_gives_the_same_words(talk, tmp_path, name, rate_hz, channels) -> None:
    import soundfile

    samples, _ = soundfile.read(talk[0])
    path = write(tmp_path / name, samples, rate_hz=rate_hz, channels=channels)
    recognise = Recogniser()
    (found,) = transcribe([path], recognise, max_chunk_s=9)
    assert found.text.split() == talk[1]
    chunks = [chunk for call in recognise.calls for chunk in call]
    is_copied = name.endswith(("mp3", "ogg"))
    assert {chunk.audio == path for chunk in chunks} == {not is_copied}
    assert all(chunk.audio.suffix == ".wav" for chunk in chunks if is_copied)
    assert not is_copied or not chunks[0].audio.exists()


def test_groups_of_chunks_do_not_grow_with_the_recording(talk, tmp_path) -> None:
    recognise = Recogniser()
    transcribe([talk[0]], recognise, max_chunk_s=3, batch_size=2)
    sizes = [len(call) for call in recognise.calls]
    assert max(sizes) == 8
    assert len(sizes) > 2


def test_short_recordings_are_decoded_as_they_are_and_share_batches(tmp_path) -> None:
    said = [["ant"], ["bee", "cat"], ["dog"]]
    paths = [write(tmp_path / f"{n}.wav", speak(words)) for n, words in enumerate(said)]
    recognise = Recogniser()
    found = transcribe(paths, recognise)
    assert [transcript.text.split() for transcript in found] == said
    assert [transcript.file for transcript in found] == [str(path) for path in paths]
    ((*chunks,),) = recognise.calls
    assert [(chunk.audio, chunk.start_s, chunk.end_s) for chunk in chunks] == [
        (path, None, None) for path in paths
    ]


def test_recordings_come_in_order_each_as_soon_as_it_is_done(talk, tmp_path) -> None:
    short = write(tmp_path / "short.wav", speak(["fox"]))
    recognise = Recogniser()
    found = transcribe_recordings(
        None,
        PROCESSOR,
        [short, talk[0], short],
        options=Options(max_chunk_s=3),
        batch_size=1,
        recognise=recognise,
    )
    assert next(found).text == "fox"
    assert len(recognise.calls) == 1
    assert next(found).text.split() == talk[1]
    assert next(found).text == "fox"


def test_what_hit_the_limit_and_what_was_heard_apart_is_said(tmp_path) -> None:
    words = words_of(np.random.default_rng(0), 40)
    path = write(tmp_path / "a.wav", speak(words))

    class Deaf(Recogniser):
        def __call__(self, *arguments, **options):
            found = super().__call__(*arguments, **options)
            # Two ears that share no word.
            return [type(r)(r.id, "", f"left{n} right{n}", n == 1) for n, r in enumerate(found)]

    (found,) = transcribe([path], Deaf(), max_chunk_s=8)
    assert found.text == " ".join(f"left{n} right{n}" for n in range(len(found.segments)))
    assert [segment.hit_limit for segment in found.segments][:3] == [False, True, False]
    assert {segment.matched for segment in found.segments[:-1]} == {False}
    warnings = found.warnings()
    assert any("most tokens it may make" in warning for warning in warnings)
    assert (
        sum("may stand there twice" in warning for warning in warnings) == len(found.segments) - 1
    )
    assert all(str(path) in warning for warning in warnings)


def test_a_damaged_file_is_named_before_anything_is_decoded(talk, tmp_path) -> None:
    (tmp_path / "bad.wav").write_bytes(talk[0].read_bytes()[:-1000])
    recognise = Recogniser()
    with pytest.raises(AudioError, match=r"bad\.wav is truncated"):
        transcribe([talk[0], tmp_path / "bad.wav"], recognise)
    assert recognise.calls == []


def test_copies_are_removed_when_the_reader_stops_early(talk, tmp_path, monkeypatch) -> None:
    import tempfile

    import soundfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    os.mkdir(tmp_path / "temporary")
    samples, _ = soundfile.read(talk[0])
    path = write(tmp_path / "a.ogg", samples)
    short = write(tmp_path / "short.wav", speak(["fox"]))
    found = transcribe_recordings(
        None, PROCESSOR, [short, path], options=Options(max_chunk_s=3), recognise=Recogniser()
    )
    next(found)
    assert list((tmp_path / "temporary").rglob("*.wav"))
    found.close()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_options_out_of_range_are_refused(talk) -> None:
    whisper = SimpleNamespace(n_samples=480_000, nb_max_frames=3000, hop_length=160)
    processor = SimpleNamespace(feature_extractor=whisper)
    assert Options().lengths_s(processor) == (25, 2)
    assert Options(max_chunk_s=4).lengths_s(processor) == (4, 1)
    whisper.n_samples = 32_000
    assert Options().lengths_s(processor) == (2, 0.5)
    with pytest.raises(
        ValueError, match=r"chunks of 3 s are more than the model takes at once, 2 s"
    ):
        Options(max_chunk_s=3).lengths_s(processor)
    with pytest.raises(ValueError, match=r"600 s; lower --max-chunk-s"):
        Options(max_chunk_s=700).lengths_s(PROCESSOR)
    with pytest.raises(ValueError, match="policy must be silence or fixed, received 'quiet'"):
        Options("quiet")
    with pytest.raises(ValueError, match="min_silence_s must be above 0"):
        Options(min_silence_s=0)
    for wrong in ({"max_chunk_s": 0}, {"max_chunk_s": 4, "overlap_s": 3}, {"overlap_s": -1}):
        with pytest.raises(ValueError, match="at most half of that"):
            Options(**wrong).lengths_s(PROCESSOR)


def test_an_overlap_of_half_a_chunk_is_taken(talk) -> None:
    path, _ = talk
    for policy in ("silence", "fixed"):
        (found,) = transcribe([path], policy=policy, max_chunk_s=10, overlap_s=5)
        assert_tiles(found, 10)
