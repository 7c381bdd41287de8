"""What a server refuses: keys, sizes, lengths, fields, and what is no audio."""

from __future__ import annotations

import io
import time

import httpx
import numpy as np
import openai
import pytest
import soundfile
from serving_tools import PATH, metric, wait_until, wav

from otreg.serving.limits import Limits

KEY = "correct-horse"
TWO_GB = 2 << 30


def post(server, file=None, **fields):
    files = {"file": ("speech.wav", wav() if file is None else file)}
    return httpx.post(f"{server.url}{PATH}", files=files, data={"model": "tiny", **fields})


def refused(answer, status, message, *, param=None):
    """The answer is an error in OpenAI's form that says this."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert message in error["message"]
    assert error["param"] == param
    return error


class Zeros(io.RawIOBase):
    """A file of zeros that is nowhere."""

    def __init__(self, size):
        self.size, self.at = size, 0

    def readable(self):
        return True

    def seekable(self):
        return True

    def tell(self):
        return self.at

    def seek(self, offset, whence=0):
        self.at = (0, self.at, self.size)[whence] + offset
        return self.at

    def read(self, size=-1):
        size = self.size - self.at if size < 0 else min(size, self.size - self.at)
        self.at += size
        return bytes(size)


def test_two_gigabytes_that_announce_themselves_are_refused_at_once(server, client):
    file, began = Zeros(TWO_GB), time.perf_counter()
    with pytest.raises(openai.APIStatusError, match="larger than 100 MB") as caught:
        client.audio.transcriptions.create(model="tiny", file=("speech.wav", file))
    assert caught.value.status_code == 413
    assert caught.value.code == "too_large"
    assert file.at < 50_000_000  # what the sockets took before the answer was read
    assert time.perf_counter() - began < 10


def test_two_gigabytes_that_come_in_chunks_are_refused_at_the_limit(start):
    server = start(limits=Limits(max_upload_bytes=20_000_000))
    wait_until(lambda: server.batcher.state == "ready")
    sent, largest = 0, 0

    def body():
        nonlocal sent, largest
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        while sent < TWO_GB:
            yield bytes(1 << 18)
            sent += 1 << 18
            largest = max([largest, *(path.stat().st_size for path in server.root.rglob("*"))])

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = httpx.post(f"{server.url}{PATH}", content=body(), headers=headers, timeout=30)
    refused(answer, 413, "larger than 20 MB", param="file")
    assert sent < 60_000_000
    assert largest < 20_000_000


def test_an_endless_text_field_is_refused(server):
    refused(post(server, prompt="a" * 100_000), 400, "maximum size")


def test_a_file_that_is_no_audio_is_refused_by_its_own_name(server, client):
    answer = post(server, file=b"%PDF-1.7 " + bytes(1000))
    error = refused(answer, 400, "'speech.wav' cannot be opened", param="file")
    assert str(server.root) not in error["message"]
    with pytest.raises(openai.BadRequestError, match="expected an intact wav, flac, ogg or mp3"):
        client.audio.transcriptions.create(model="tiny", file=("a.mp3", b"not a sound"))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (b"", "is empty"),
        (wav()[:5000], "truncated"),
        (wav(601.0), "601.0 s, above max_duration_s 600"),
    ],
)
def test_audio_that_cannot_be_heard_in_full_is_refused(server, file, message):
    refused(post(server, file=file), 400, message, param="file")


def test_what_shows_itself_only_when_decoded_is_refused_and_the_server_goes_on(server):
    target = io.BytesIO()
    samples = np.full(8000, 0.1)
    samples[100] = np.nan
    soundfile.write(target, samples, 16_000, format="WAV", subtype="FLOAT")
    error = refused(post(server, file=target.getvalue()), 400, "NaN", param="file")
    assert str(server.root) not in error["message"]
    assert post(server).status_code == 200


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"model": ""}, "model", "send 'tiny'"),
        ({"temperature": "0.2"}, "temperature", "must be 0, received '0.2'"),
        ({"temperature": "warm"}, "temperature", "must be 0, received 'warm'"),
        ({"prompt": "Hello"}, "prompt", "takes no prompt"),
        ({"language": "en; drop"}, "language", "a language code such as 'en'"),
        ({"response_format": "jsn"}, "response_format", "did you mean 'json'"),
        ({"stream": "maybe"}, "stream", "true or false"),
        ({"stream": "true", "response_format": "srt"}, "response_format", "leave stream out"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities[]", "'segment'"),
        (
            {"timestamp_granularities[]": "segment"},
            "timestamp_granularities[]",
            "need response_format 'verbose_json'",
        ),
        ({"chunking_strategy": '{"type": "server_vad"}'}, "chunking_strategy", "'auto'"),
        ({"temprature": "0"}, "temprature", "did you mean 'temperature'"),
        ({"include[]": "logprobs"}, "include[]", "cannot honour it"),
        ({"language": ["en", "de"]}, "language", "given twice"),
    ],
)
def test_what_cannot_be_honoured_is_refused(server, fields, param, message):
    refused(post(server, **fields), 400, message, param=param)


def test_what_changes_nothing_is_taken(server):
    fields = {"temperature": "0.0", "prompt": "", "chunking_strategy": "auto", "stream": "False"}
    assert post(server, **fields, language="pt-BR").status_code == 200


def test_a_form_without_a_file_is_refused(server):
    url, model = f"{server.url}{PATH}", {"model": "tiny"}
    refused(httpx.post(url, data=model), 400, "multipart/form-data")
    refused(httpx.post(url, json=model), 400, "multipart/form-data")
    refused(httpx.post(url, files={"audio": b"x"}), 400, "'file' is missing", param="file")
    as_text = httpx.post(url, files={"file": (None, "text"), "model": (None, "tiny")})
    refused(as_text, 400, "'file' is missing", param="file")
    two = [("file", ("a.wav", wav())), ("file", ("b.wav", wav()))]
    refused(httpx.post(url, files=two, data=model), 400, "Too many files")
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    refused(httpx.post(url, content=b"--y nonsense", headers=headers), 400, "form")


@pytest.fixture
def locked(start):
    server = start(key=KEY)
    wait_until(lambda: httpx.get(f"{server.url}/health").status_code == 200)  # open to all
    return server


@pytest.mark.parametrize(
    "header", [None, "Bearer wrong", f"Basic {KEY}", KEY, f"Bearer {KEY}x", "Bearer", "Bearer é"]
)
def test_without_the_key_nothing_is_given(locked, header):
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    for method, path in (("POST", PATH), ("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/x")):
        answer = httpx.request(method, f"{locked.url}{path}", headers=headers)
        error = refused(answer, 401, "Authorization: Bearer KEY")
        assert error["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"


def test_without_the_key_no_upload_is_read(locked):
    file = Zeros(90_000_000)
    with (
        openai.OpenAI(base_url=f"{locked.url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.audio.transcriptions.create(model="tiny", file=("a.wav", file))
    assert file.at < 50_000_000


def test_with_the_key_all_is_given(locked):
    with openai.OpenAI(base_url=f"{locked.url}/v1", api_key=KEY, max_retries=0) as client:
        assert client.audio.transcriptions.create(model="tiny", file=("a.wav", wav())).text
    metrics = httpx.get(f"{locked.url}/metrics", headers={"Authorization": f"bearer {KEY}"})
    assert 'otreg_requests_total{path="/v1/audio/transcriptions",status="200"} 1.0' in metrics.text
    assert KEY not in metrics.text


def test_refusals_are_counted_by_status(server):
    before = metric(server, f'otreg_requests_total{{path="{PATH}",status="400"}}')
    post(server, temperature="1")
    assert metric(server, f'otreg_requests_total{{path="{PATH}",status="400"}}') == before + 1


@pytest.mark.parametrize("field", ["max_upload_bytes", "timeout_s", "max_requests"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_limit_is_a_positive_number(field, value):
    with pytest.raises(ValueError, match=f"{field} must be a positive number"):
        Limits(**{field: value})


def test_a_second_file_is_refused_even_where_it_is_text(server):
    files = [("file", ("a.wav", wav())), ("file", (None, b"text")), ("model", (None, b"tiny"))]
    answer = httpx.post(f"{server.url}{PATH}", files=files)
    refused(answer, 400, "expected one field 'file', received 2", param="file")


def test_a_page_of_another_name_reads_nothing(server):
    for path in ("/v1/models", "/metrics", "/health"):
        answer = httpx.get(server.url + path, headers={"Host": "evil.example:8000"})
        assert refused(answer, 400, "the header Host names another")["code"] == "invalid_host"
    port = server.url.rpartition(":")[2]
    assert httpx.get(f"{server.url}/v1/models", headers={"Host": f"localhost:{port}"}).is_success
