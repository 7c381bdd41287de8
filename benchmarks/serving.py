"""Throughput of `otreg serve`: fifty requests at once against the same fifty one by one.

    python benchmarks/serving.py [RUN] [--audio MANIFEST] [--requests 50] [--threads 1]

RUN is a run or model folder; without one, a random model of the demo's size is made (a Whisper encoder
of 3 layers and width 128, a Qwen2 of 4 layers and width 128), whose encoder takes 30 s. Without a
manifest, the requests are tones of 1 to 4 s. A real server is asked over HTTP on this machine; the two
ways are measured in turn, --repeats times, after one round that is not counted. Prints one table.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import soundfile
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from transformers.utils import logging

from otreg.data.audio import load_audio
from otreg.data.manifest import read_manifest
from otreg.model import SpeechLMForConditionalGeneration, SpeechLMProcessor
from otreg.model.loading import load_model
from otreg.serving.limits import Limits
from otreg.serving.recognizer import Recognizer
from otreg.serving.server import Server

MAX_DURATION_S = 30.0


def save_random_model(folder: Path) -> Path:
    """A random model of the demo's size."""
    torch.manual_seed(0)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: n for n, token in enumerate(["<pad>", "<s>", "</s>", "<asr>", *alphabet])}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    language_model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=2048,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    encoder = WhisperEncoder(
        WhisperConfig(
            d_model=128,
            encoder_layers=3,
            encoder_attention_heads=4,
            encoder_ffn_dim=512,
            num_mel_bins=48,
            max_source_positions=1500,
        )
    )
    audio, text = folder / "audio_tower", folder / "language_model"
    encoder.save_pretrained(audio)
    WhisperFeatureExtractor(feature_size=48).save_pretrained(audio)
    language_model.save_pretrained(text)
    tokenizer.save_pretrained(text)
    model = SpeechLMForConditionalGeneration.from_towers(audio, text, short_mel=True)
    model.save_pretrained(folder / "model")
    SpeechLMProcessor.from_config(model.config, audio, text).save_pretrained(folder / "model")
    return folder / "model"


def recordings(manifest: Path | None, count: int) -> tuple[list[bytes], float]:
    """Wav files to send, and their seconds together."""
    if manifest is not None:
        rows = read_manifest(manifest)[:count]
        if len(rows) < count:
            raise SystemExit(f"{manifest} has {len(rows)} rows, fewer than --requests {count}")
        sounds = [load_audio(row) for row in rows]
    else:
        rng = np.random.default_rng(0)
        sounds = []
        for duration_s in rng.uniform(1, 4, count):
            time_s = np.arange(round(16_000 * duration_s)) / 16_000
            tone = 0.3 * np.sin(2 * np.pi * rng.uniform(100, 800) * time_s * (1 + 0.3 * time_s))
            sounds.append(tone.astype(np.float32))
    files = []
    for samples in sounds:
        target = io.BytesIO()
        soundfile.write(target, samples, 16_000, format="WAV")
        files.append(target.getvalue())
    return files, sum(map(len, sounds)) / 16_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, nargs="?", help="default: a random model")
    parser.add_argument("--audio", type=Path, help="manifest of what is sent; default: tones")
    parser.add_argument("--requests", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable_progress_bar()
    files, seconds = recordings(options.audio, options.requests)

    with tempfile.TemporaryDirectory() as folder:
        run = options.run or save_random_model(Path(folder))

        def load() -> Recognizer:
            model, processor = load_model(str(run))
            return Recognizer(
                model.to(options.device),
                processor,
                max_new_tokens=options.max_new_tokens,
                max_duration_s=MAX_DURATION_S,
            )

        server = Server(
            load,
            model="measured",
            port=0,
            max_batch=options.batch_size,
            limits=Limits(max_requests=max(128, options.requests)),
        )
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            measure(server, files, seconds, options)
        finally:
            server.stop()
            thread.join()
    if server.batcher.failure is not None:
        sys.exit(f"the model could not be loaded: {server.batcher.failure}")


def measure(
    server: Server, files: list[bytes], seconds: float, options: argparse.Namespace
) -> None:
    """Ask both ways in turn, and print a table."""
    with httpx.Client(base_url=server.url, timeout=600) as client:
        while server.batcher.state == "loading":
            time.sleep(0.1)
        if server.batcher.failure is not None:
            return

        def ask(file: bytes) -> str:
            answer = client.post(
                "/v1/audio/transcriptions",
                files={"file": ("a.wav", file)},
                data={"model": "measured"},
            )
            answer.raise_for_status()
            return str(answer.json()["text"])

        taken: dict[str, list[float]] = {"one by one": [], "at once": []}
        texts: dict[str, list[str]] = {}
        with ThreadPoolExecutor(len(files)) as pool:
            for repeat in range(options.repeats + 1):
                for way, times in taken.items():
                    began = time.perf_counter()
                    asked = pool.map(ask, files) if way == "at once" else map(ask, files)
                    texts[way] = list(asked)
                    if repeat:
                        times.append(time.perf_counter() - began)
    alike = sum(map(str.__eq__, texts["one by one"], texts["at once"]))
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(
        f"{len(files)} requests, {seconds:.0f} s of audio, batches of {options.batch_size}, "
        f"{options.threads} thread(s) on {options.device}{load}\n"
    )
    print("| way | seconds (median, range) | requests/s | audio s/s |\n|---|---|---|---|")
    for way, times in taken.items():
        median = statistics.median(times)
        print(
            f"| {way} | {median:.2f} ({min(times):.2f}-{max(times):.2f}) | "
            f"{len(files) / median:.1f} | {seconds / median:.1f} |"
        )
    ratios = [one / all_ for one, all_ in zip(*taken.values(), strict=True)]
    print(f"\nratio, at once / one by one: {statistics.median(ratios):.2f} ", end="")
    print(f"({min(ratios):.2f}-{max(ratios):.2f}); {alike} of {len(files)} transcripts equal")


if __name__ == "__main__":
    main()
