"""The OpenAI client against a real server of a tiny model."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor

import httpx
import imageio_ffmpeg
import numpy as np
import openai
import pytest
import soundfile
from serving_tools import MAX_NEW_TOKENS, metric
from tiny_towers import make_audio

from otreg.data.utterance import Utterance
from otreg.model.generation import transcribe
from otreg.model.loading import load_model
from otreg.transcription import FORMATS, transcribe_recordings


@pytest.fixture(scope="module")
def expected(model_folder, recordings):
    """What the model says of each recording alone, without a server."""
    model, processor = load_model(str(model_folder))
    rows = [Utterance(str(number), path) for number, path in enumerate(recordings)]
    done = transcribe(model, processor, rows, batch_size=1, max_new_tokens=MAX_NEW_TOKENS)
    texts = [row.hypothesis for row in done]
    assert len(set(texts)) > 10  # it hears something
    return texts


def ask(client, path, **options):
    with open(path, "rb") as file:
        return client.audio.transcriptions.create(model="tiny", file=file, **options)


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_every_format_is_heard(client, model_folder, recordings, tmp_path, kind):
    path = tmp_path / f"speech.{kind}"
    if kind == "mp3":
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", recordings[20], path]
        subprocess.run(command, check=True)
    else:
        soundfile.write(path, *soundfile.read(recordings[20]))
    model, processor = load_model(str(model_folder))
    [alone] = transcribe(model, processor, [Utterance("a", path)], max_new_tokens=MAX_NEW_TOKENS)
    assert alone.hypothesis
    assert ask(client, path).text == alone.hypothesis


def test_the_format_is_known_by_the_content_not_by_the_name(client, recordings, expected):
    upload = ("speech.mp3", recordings[3].read_bytes(), "audio/mpeg")
    said = client.audio.transcriptions.create(model="tiny", file=upload)
    assert said.text == expected[3]


def test_fifty_parallel_requests_are_answered_as_one_by_one(server, client, recordings, expected):
    batches = metric(server, "otreg_batch_size_count")
    with ThreadPoolExecutor(50) as pool:
        together = list(pool.map(lambda path: ask(client, path).text, recordings))
    assert together == expected
    assert metric(server, "otreg_batch_size_count") - batches < 50  # some were decoded together
    assert [ask(client, path).text for path in recordings[:10]] == expected[:10]


def test_json_says_how_long_the_audio_is(client, recordings, expected):
    answer = ask(client, recordings[0], language="en", temperature=0)
    assert answer.text == expected[0]
    assert answer.usage.type == "duration"
    assert answer.usage.seconds == pytest.approx(0.3, abs=1e-3)


def test_text_is_the_transcript_alone(client, recordings, expected):
    assert ask(client, recordings[1], response_format="text") == f"{expected[1]}\n"


def test_verbose_json_has_segments_with_times(client, recordings, expected):
    answer = ask(
        client,
        recordings[2],
        response_format="verbose_json",
        language="de",
        timestamp_granularities=["segment"],
    )
    assert answer.text == expected[2]
    assert answer.language == "de"
    assert answer.duration == pytest.approx(0.36, abs=1e-3)
    [segment] = answer.segments
    assert (segment.id, segment.start, segment.text) == (0, 0.0, expected[2])
    assert segment.end == pytest.approx(0.36, abs=1e-3)
    assert segment.avg_logprob is None  # not measured, not made up


def test_srt_and_vtt_are_subtitles(client, recordings, expected):
    line = " ".join(expected[4].split())
    srt = ask(client, recordings[4], response_format="srt")
    assert srt == f"1\n00:00:00,000 --> 00:00:00,420\n{line}\n\n"
    vtt = ask(client, recordings[4], response_format="vtt")
    assert vtt.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:00.420\n")


def test_a_stream_ends_with_the_whole_transcript(client, recordings, expected):
    events = list(ask(client, recordings[5], stream=True))
    assert [event.type for event in events] == ["transcript.text.delta", "transcript.text.done"]
    assert events[0].delta == events[1].text == expected[5]


def test_the_model_is_listed_and_others_are_unknown(client, recordings):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "otreg"
    with pytest.raises(openai.NotFoundError, match="'whisper-1' is not served here") as caught:
        client.models.retrieve("whisper-1")
    assert caught.value.code == "model_not_found"
    upload = ("a.wav", recordings[0].read_bytes())
    with pytest.raises(openai.NotFoundError, match="this server has 'tiny'") as caught:
        client.audio.transcriptions.create(model="whisper-1", file=upload)
    assert caught.value.param == "model"


def test_health_and_metrics(server, client, recordings):
    assert httpx.get(f"{server.url}/health").json() == {"status": "ready"}
    path = "/v1/audio/transcriptions"
    answered = f'otreg_requests_total{{path="{path}",status="200"}}'
    before = metric(server, answered), metric(server, "otreg_audio_seconds_total")
    ask(client, recordings[0])
    assert metric(server, answered) == before[0] + 1
    assert metric(server, "otreg_audio_seconds_total") == pytest.approx(before[1] + 0.3, abs=1e-3)
    assert metric(server, "otreg_queue_length") == 0
    assert metric(server, "otreg_request_seconds_count") > 0


def test_paths_of_strangers_are_counted_together(server):
    assert httpx.get(f"{server.url}/wp-login.php").status_code == 404
    assert httpx.get(f"{server.url}/docs").status_code == 404
    assert metric(server, 'otreg_requests_total{path="other",status="404"}') >= 2
    assert "wp-login" not in httpx.get(f"{server.url}/metrics").text
    wrong = httpx.get(f"{server.url}/v1/audio/transcriptions")
    assert wrong.status_code == 405
    assert wrong.json()["error"]["type"] == "invalid_request_error"


def test_other_origins_get_no_leave_to_read(server):
    answer = httpx.get(f"{server.url}/v1/models", headers={"Origin": "https://example.org"})
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_answers_are_plain_ascii_json(server, client, recordings, expected):
    text = ask(client, recordings[0]).text
    with open(recordings[0], "rb") as file:
        raw = httpx.post(
            f"{server.url}/v1/audio/transcriptions",
            files={"file": file},
            data={"model": "tiny", "stream": "true"},
        )
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert raw.content.isascii()
    lines = raw.text.split("\n\n")
    assert [json.loads(line.removeprefix("data: ")) for line in lines if line][-1]["text"] == text


def test_a_files_name_is_only_a_name(client, recordings, expected):
    upload = ("../../etc/passwd", recordings[6].read_bytes())
    assert client.audio.transcriptions.create(model="tiny", file=upload).text == expected[6]


@pytest.mark.parametrize(("kind", "gap_s"), [("wav", 0.4), ("mp3", 0.4), ("wav", 0.0)])
def test_a_long_recording_is_heard_as_otreg_transcribe_hears_it(
    client, model_folder, tmp_path, kind, gap_s
):
    path = tmp_path / f"long.{kind}"
    gap = np.zeros(round(16_000 * gap_s), dtype=np.float32)
    samples = np.concatenate(
        [part for clip in make_audio(1.3, 0.9, 1.5, 1.1) for part in (clip, gap)]
    )
    soundfile.write(path, samples, 16_000)
    model, processor = load_model(str(model_folder))
    [whole] = transcribe_recordings(model, processor, [path], max_new_tokens=MAX_NEW_TOKENS)
    assert len(whole.segments) > 2  # the encoder takes 2 s
    assert ("overlap" in {segment.cut for segment in whole.segments}) == (gap_s == 0)
    answer = ask(client, path, response_format="verbose_json")
    assert answer.text == whole.text
    assert [(s.start, s.end, s.text) for s in answer.segments] == [
        (s.start_s, s.end_s, s.text) for s in whole.segments
    ]
    *deltas, done = ask(client, path, stream=True)
    assert "".join(event.delta for event in deltas) == done.text == whole.text
    assert ask(client, path, response_format="srt") == FORMATS["srt"](whole)
