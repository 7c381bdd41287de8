"""Tiny towers from anybody's manifests: a speech encoder and a language model to try things on.

No weights need to be downloaded: the encoder has Whisper's architecture and learns the characters
(or phonemes) of the transcripts by CTC; the language model has Llama's and learns to write the
manifests' words and to copy a noisy token sequence, ``<bos> X~ <asr> X <eos>``, which is what a
speech language model asks of it. Both are saved in Hugging Face's format, and are then used as any
other tower.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch

from otreg.data.manifest import read_manifest
from otreg.synthetic.encoder import train_encoder
from otreg.synthetic.fit import MiniatureSettings
from otreg.synthetic.language_model import train_language_model

__all__ = ["MiniatureSettings", "build_miniature", "one_thread"]


def build_miniature(
    manifests: Sequence[Path | str],
    out: Path | str,
    *,
    root: Path | str | None = None,
    texts: Sequence[Path | str] = (),
    seed: int = 0,
    settings: MiniatureSettings | None = None,
    num_processes: int = 2,
) -> Path:
    """Train both towers, side by side, and write `out`/audio_tower and `out`/language_model.

    Args:
        manifests: speech with transcripts (JSONL, see `otreg.data.manifest`); the encoder learns from
            all of it, the language model from the transcripts.
        out: folder to write; made where missing.
        root: as in `read_manifest`, the same for all manifests.
        texts: further text files, a sentence a line, for the language model alone.
        seed: of initial weights, data order and noise.
        settings: sizes and budgets.
        num_processes: 2 trains the towers at the same time (one thread each), 1 one after the other.

    Returns:
        `out` as a path.

    Raises:
        ValueError: a manifest or text file is empty or wrong, or `out` holds towers already.
    """
    settings = settings or MiniatureSettings()
    out = Path(out)
    for name in ("audio_tower", "language_model"):
        if (out / name).exists():
            raise ValueError(f"{out / name} exists already; name another folder, or remove it")
    utterances = [u for manifest in manifests for u in read_manifest(manifest, root=root)]
    if not utterances:
        raise ValueError("otreg miniature needs at least one manifest with utterances")
    sentences = [u.text for u in utterances]
    for path in texts:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
        lines = [line for line in lines if line]
        if not lines:
            raise ValueError(f"{path} holds no text; expected one sentence a line")
        sentences += lines
    language_model = (sentences, out / "language_model", settings, seed)
    encoder = (utterances, out / "audio_tower", settings, seed)
    if num_processes == 1:
        train_language_model(*language_model)
        train_encoder(*encoder)
        return out
    # Two torch processes of several threads each starve each other on two cores: one thread each.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context, initializer=one_thread) as pool:
        jobs = [
            pool.submit(train_language_model, *language_model),
            pool.submit(train_encoder, *encoder),
        ]
        for job in as_completed(jobs):
            job.result()
    return out


def one_thread() -> None:
    """Limit this process's torch to one thread (for workers that share the cores)."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
