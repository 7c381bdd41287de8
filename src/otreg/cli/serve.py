"""`otreg serve`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from otreg.cli.application import app
from otreg.cli.trained_model import BatchSize, Device, MaxTokens, Run, TrustRemoteCode
from otreg.cli.trained_model import load as load_on_device

PACKAGES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


@app.command(epilog="Example: otreg serve runs/digits --port 8000 --api-key-file key.txt")
def serve(
    run: Run,
    host: Annotated[
        str, typer.Option(help="Address to listen on; other machines reach all but local ones.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 = any free one.")] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the key that clients must send. Default: the environment variable "
            "OTREG_API_KEY, else no key is asked for.",
            show_default=False,
        ),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Let other machines in without a key.")
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(help="The model's name in requests. Default: the folder's.", metavar="NAME"),
    ] = None,
    batch_size: BatchSize = 16,
    batch_s: Annotated[
        float, typer.Option(min=0.1, help="Most seconds of audio decoded together, padded.")
    ] = 240.0,
    max_new_tokens: MaxTokens = 200,
    max_requests: Annotated[
        int, typer.Option(min=1, help="Requests open at a time; more get 429.")
    ] = 128,
    max_upload_mb: Annotated[
        float, typer.Option(min=0.001, help="Largest request, in MB; a larger one gets 413.")
    ] = 100.0,
    max_duration_s: Annotated[float, typer.Option(min=0.1, help="Longest recording.")] = 600.0,
    timeout_s: Annotated[
        float, typer.Option(min=0.1, help="From a request's beginning to its answer.")
    ] = 300.0,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Serve a model over HTTP as OpenAI's API for transcriptions; end with Ctrl-C.

    Parallel requests are decoded in batches. See docs/serving.md.
    """
    require_packages()
    from otreg.model.loading import place_of
    from otreg.serving.access import check_host, read_key
    from otreg.serving.limits import Limits
    from otreg.serving.recognizer import Recognizer
    from otreg.serving.server import Server

    place_of(run)
    key = read_key(api_key_file)
    check_host(host, key, insecure=insecure)
    name = name or run.resolve().name

    def load() -> Recognizer:
        model, processor = load_on_device(run, device, trust_remote_code)
        return Recognizer(
            model, processor, max_new_tokens=max_new_tokens, max_duration_s=max_duration_s
        )

    server = Server(
        load,
        model=name,
        host=host,
        port=port,
        key=key,
        limits=Limits(
            max_upload_bytes=round(max_upload_mb * 1e6),
            timeout_s=timeout_s,
            max_requests=max_requests,
        ),
        max_batch=batch_size,
        max_batch_s=batch_s,
    )
    typer.echo(f"serving {name!r} at {server.url}/v1 (Ctrl-C ends it)")
    server.run()


def require_packages() -> None:
    """See that the extra is installed.

    Raises:
        ImportError: one of its packages is missing.
    """
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise ImportError(
                f"otreg serve needs {package.replace('_', '-')}: pip install 'otreg[serve]'"
            )
