"""`otreg serve` as a user calls it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from importlib import util
from pathlib import Path

import httpx
import openai
import pytest
from planted_speech import Planted
from serving_tools import wait_until, wav

from otreg.cli import main
from otreg.serving.server import Server

OTREG = Path(sys.executable).with_name("otreg")


def fails(capsys, *arguments):
    """Run what must fail with exit code 2; return its one line on stderr."""
    assert main(["serve", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out.count("\n") <= 1
    assert err.startswith("otreg: error: ")
    assert err.count("\n") == 1
    return err


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OTREG_API_KEY", raising=False)


def test_the_command_serves_until_it_is_told_to_end(model_folder, tmp_path):
    (tmp_path / "key").write_text("s3cret\n")
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    options = ["--port", "0", "--name", "mine", "--api-key-file", tmp_path / "key"]
    command = [OTREG, "serve", model_folder, *options, "--max-new-tokens", "8", "--device", "cpu"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        line = process.stdout.readline()
        found = re.fullmatch(
            r"serving 'mine' at (http://127.0.0.1:\d+)/v1 \(Ctrl-C ends it\)\n", line
        )
        assert found, process.stderr.read()
        url = found[1]
        wait_until(lambda: httpx.get(f"{url}/health").status_code == 200, 60)
        with openai.OpenAI(base_url=f"{url}/v1", api_key="s3cret", max_retries=0) as client:
            assert client.audio.transcriptions.create(model="mine", file=("a.wav", wav())).text
        assert list(tmp_path.glob("otreg-serve-*"))
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out == err == ""
    assert not list(tmp_path.glob("otreg-serve-*"))


def test_ctrl_c_ends_it_without_an_error():
    before = signal.getsignal(signal.SIGINT)
    server = Server(Planted(), model="tiny", port=0)

    def press():
        wait_until(lambda: httpx.get(f"{server.url}/health").status_code == 200)
        os.kill(os.getpid(), signal.SIGINT)

    finger = threading.Thread(target=press)
    finger.start()
    server.run()
    finger.join()
    assert server.batcher.state == "closed"
    assert not server.root.exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_other_machines_need_a_key_or_a_word(model_folder, capsys, monkeypatch):
    message = fails(capsys, model_folder, "--host", "0.0.0.0")
    assert "--host 0.0.0.0 may be reached from other machines" in message
    assert "--insecure" in message
    monkeypatch.setenv("OTREG_API_KEY", "")
    assert "OTREG_API_KEY must hold one key" in fails(capsys, model_folder, "--host", "0.0.0.0")


def test_a_port_in_use_is_named(model_folder, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = fails(capsys, model_folder, "--port", port)
    assert f"cannot listen on 127.0.0.1, port {port}" in message
    assert "--port" in message


def test_without_a_model_nothing_is_served(tmp_path, capsys, model_folder):
    assert "no such run or model folder" in fails(capsys, tmp_path / "none")
    (tmp_path / "config.json").write_text('{"model_type": "nonsense"}')
    assert "cannot load the model" in fails(capsys, tmp_path, "--port", "0")


@pytest.mark.parametrize("missing", ["fastapi", "python_multipart"])
def test_without_the_extra_it_is_named(model_folder, capsys, monkeypatch, missing):
    found = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == missing else found(name))
    message = fails(capsys, model_folder)
    assert message.endswith(f"needs {missing.replace('_', '-')}: pip install 'otreg[serve]'\n")
