"""What becomes of requests that wait: hang-ups, full queues, time limits, shutdown, streams."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from planted_speech import Planted
from serving_tools import PATH, metric, wait_until, wav

from otreg.data.audio import AudioError
from otreg.serving.limits import Limits
from otreg.serving.server import Server


def client_of(server, **options):
    return openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", **{"max_retries": 0, "timeout": 30, **options}
    )


def ask(server, seconds=1.0, **options):
    with client_of(server) as client:
        upload = ("speech.wav", wav(seconds))
        answer = client.audio.transcriptions.create(model="tiny", file=upload, **options)
        return list(answer) if options.get("stream") else answer


def ready(start, planted, **options):
    server = start(planted, **options)
    wait_until(lambda: server.batcher.state == "ready")
    return server


@pytest.fixture
def held(start):
    """Make a server that is busy with one request; give it, its recogniser and that request."""
    pool = ThreadPoolExecutor(8)

    def make(planted=None, **options):
        planted = planted or Planted()
        planted.gate.clear()
        server = ready(start, planted, **options)
        busy = pool.submit(ask, server)
        assert planted.began.wait(20)
        return server, planted, busy, pool

    yield make
    pool.shutdown()


def raw_request(server, body=None):
    """A connection on which a whole request was sent, or its first part."""
    part = b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    whole = part % (b"model", b"", b"tiny")
    whole += part % (b"file", b'; filename="a.wav"', wav(1.0)) + b"--x--\r\n"
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(whole)}\r\n"
    head += "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    connection.sendall(head.encode() + whole[:body])
    return connection


def test_a_client_that_hangs_up_is_dropped_before_decoding(held):
    server, planted, busy, pool = held()
    gone = raw_request(server)
    wait_until(lambda: server.batcher.num_waiting == 1)
    assert len(list(server.root.iterdir())) == 2
    gone.close()
    wait_until(lambda: server.batcher.num_waiting == 0)
    wait_until(lambda: len(list(server.root.iterdir())) == 1)  # its file went with it
    waiting = pool.submit(ask, server)
    wait_until(lambda: server.batcher.num_waiting == 1)
    planted.gate.set()
    assert busy.result(20).text == waiting.result(20).text == "one"
    assert len(planted.batches) == 2  # the busy one and the one that waited: never the dropped one
    assert metric(server, 'otreg_dropped_total{reason="hung_up"}') == 1
    wait_until(lambda: metric(server, f'otreg_requests_total{{path="{PATH}",status="499"}}') == 1)


def test_a_client_that_hangs_up_while_decoded_leaves_the_server_well(start):
    planted = Planted()
    planted.gate.clear()
    server = ready(start, planted)
    gone = raw_request(server)
    assert planted.began.wait(20)
    gone.close()
    wait_until(lambda: metric(server, "otreg_open_requests") == 0)
    assert len(list(server.root.iterdir())) == 1  # the decoder may still read it
    planted.gate.set()
    wait_until(lambda: not list(server.root.iterdir()))
    assert ask(server).text == "one"


def test_a_client_that_hangs_up_while_sending_leaves_nothing(start):
    server = ready(start, Planted())
    gone = raw_request(server, body=5000)
    wait_until(lambda: metric(server, "otreg_open_requests") == 1)
    gone.close()
    wait_until(lambda: metric(server, "otreg_open_requests") == 0)
    wait_until(lambda: metric(server, f'otreg_requests_total{{path="{PATH}",status="499"}}') == 1)
    assert ask(server).text == "one"


def test_a_reader_of_a_stream_who_hangs_up_stops_its_decoding(start):
    planted = Planted()
    server = ready(start, planted, max_batch=1)
    body = {"files": {"file": ("a.wav", wav(5.0))}, "data": {"model": "tiny", "stream": "true"}}
    planted.gate.clear()
    planted.free = 1
    with httpx.stream("POST", f"{server.url}{PATH}", **body) as answer:
        lines = answer.iter_lines()
        assert next(lines).endswith('"delta": "one"}')
        wait_until(lambda: len(planted.batches) == 2)
        assert server.batcher.num_waiting == 3
    wait_until(lambda: metric(server, "otreg_open_requests") == 0)
    assert server.batcher.num_waiting == 0
    planted.gate.set()
    wait_until(lambda: not list(server.root.iterdir()))
    assert len(planted.batches) == 2


def test_more_requests_than_allowed_are_told_to_come_again(held):
    server, planted, busy, pool = held(limits=Limits(max_requests=2))
    second = pool.submit(ask, server)
    wait_until(lambda: server.batcher.num_waiting == 1)
    with pytest.raises(openai.RateLimitError, match="2 requests are open") as caught:
        ask(server)
    assert caught.value.response.headers["retry-after"] == "1"
    assert caught.value.code == "queue_full"
    planted.gate.set()
    assert busy.result(20).text == second.result(20).text == "one"
    assert ask(server).text == "one"


def test_what_is_not_ready_in_time_is_dropped(held):
    server, planted, busy, _ = held(limits=Limits(timeout_s=1.0))
    with pytest.raises(openai.InternalServerError, match="not ready within 1 s") as caught:
        ask(server)
    assert caught.value.status_code == 503
    with pytest.raises(openai.InternalServerError, match="not ready within 1 s"):
        busy.result(20)
    assert metric(server, 'otreg_dropped_total{reason="timeout"}') == 1  # the other was decoded
    planted.gate.set()
    wait_until(lambda: not list(server.root.iterdir()))
    assert ask(server).text == "one"


def test_a_slow_upload_ends(start):
    server = ready(start, Planted(), limits=Limits(timeout_s=0.3))
    slow = raw_request(server, body=5000)
    slow.settimeout(20)
    assert slow.recv(1000).startswith(b"HTTP/1.1 408")
    slow.close()
    assert not list(server.root.iterdir())


def test_while_the_model_is_loading_clients_are_told_to_come_again(start):
    loaded = threading.Event()

    def load():
        assert loaded.wait(20)
        return Planted()

    server = start(load)
    wait_until(lambda: httpx.get(f"{server.url}/health").status_code == 503)
    assert httpx.get(f"{server.url}/health").json() == {"status": "loading"}
    with pytest.raises(openai.InternalServerError, match="still loading") as caught:
        ask(server)
    assert caught.value.response.headers["retry-after"] == "5"
    loaded.set()
    wait_until(lambda: httpx.get(f"{server.url}/health").status_code == 200)
    assert ask(server).text == "one"


def test_a_server_whose_model_failed_says_so(start):
    lost = RuntimeError("lost")
    server = ready(start, Planted(fails=lambda text: lost), max_batch=1)
    for _ in range(5):
        with pytest.raises(openai.InternalServerError, match="failed to decode"):
            ask(server)
    wait_until(lambda: httpx.get(f"{server.url}/health").status_code == 503)
    assert httpx.get(f"{server.url}/health").json() == {"status": "failed"}
    with pytest.raises(openai.InternalServerError, match="5 pieces of audio in a row") as caught:
        ask(server)
    assert caught.value.status_code == 503


def test_shutdown_finishes_what_runs_and_refuses_what_waits(held):
    server, planted, busy, pool = held()
    waiting = pool.submit(ask, server)
    wait_until(lambda: server.batcher.num_waiting == 1)
    server.stop()
    with pytest.raises(openai.InternalServerError, match="shutting down") as caught:
        waiting.result(20)
    assert caught.value.status_code == 503
    assert not busy.done()
    planted.gate.set()
    assert busy.result(20).text == "one"
    assert len(planted.batches) == 1


def test_pieces_are_joined_and_timed(start):
    server = ready(start, Planted())
    answer = ask(server, 2.6, response_format="verbose_json")
    assert answer.text == "one two three"
    times = [(segment.start, segment.end, segment.text) for segment in answer.segments]
    assert times == [(0.0, 1.0, "one"), (1.0, 2.0, "two"), (2.0, 2.6, "three")]
    assert answer.duration == 2.6
    srt = ask(server, 2.6, response_format="srt")
    assert srt.endswith("3\n00:00:02,000 --> 00:00:02,600\nthree\n\n")


def test_a_stream_brings_each_piece_as_it_is_ready(start):
    planted = Planted()
    server = ready(start, planted, max_batch=1)
    with client_of(server) as client:
        upload = ("speech.wav", wav(3.0))
        planted.gate.clear()
        planted.free = 1
        stream = client.audio.transcriptions.create(model="tiny", file=upload, stream=True)
        assert next(stream).delta == "one"  # while the others wait
        planted.gate.set()
        *deltas, done = stream
    assert [event.delta for event in deltas] == [" two", " three"]
    assert done.type == "transcript.text.done"
    assert done.text == "one two three"


def test_a_stream_that_fails_says_so_and_stops_its_decoding(start):
    lost = RuntimeError("lost")
    planted = Planted(fails=lambda text: lost if text == "two" else None)
    planted.gate.clear()
    planted.free = 2
    server = ready(start, planted, max_batch=1)
    with pytest.raises(openai.APIError, match="failed to decode"):
        ask(server, 5.0, stream=True)
    wait_until(lambda: metric(server, "otreg_open_requests") == 0)
    assert server.batcher.num_waiting == 0
    assert metric(server, 'otreg_dropped_total{reason="decoding"}') == 1
    planted.gate.set()
    with pytest.raises(openai.InternalServerError, match="failed to decode"):
        ask(server, 3.0)


def test_what_fails_before_a_streams_first_event_has_a_status(start):
    def cut(text):
        return AudioError("the audio is truncated")

    server = ready(start, Planted(fails=cut))
    with pytest.raises(openai.BadRequestError, match="is truncated") as caught:
        ask(server, stream=True)
    assert caught.value.code == "invalid_audio"


def test_a_transcript_cut_at_the_limit_of_tokens_says_so(start):
    server = ready(start, Planted(hit_limit=True))
    assert ask(server).model_extra["hit_token_limit"] is True
    assert ask(server, stream=True)[-1].model_extra["hit_token_limit"] is True
    files = {"file": ("a.wav", wav(1.0))}
    raw = httpx.post(f"{server.url}{PATH}", files=files, data={"model": "tiny"})
    assert raw.headers["x-otreg-hit-token-limit"] == "true"
    assert metric(server, "otreg_token_limit_total") == 3


def test_a_server_whose_model_cannot_be_loaded_ends_with_the_reason():
    def broken():
        raise ValueError("no such model")

    server = Server(broken, model="tiny", port=0)
    with pytest.raises(ValueError, match="no such model"):
        server.run()
    assert not server.root.exists()
