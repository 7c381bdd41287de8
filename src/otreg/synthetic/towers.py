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
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from otreg.data.manifest import read_manifest
from otreg.synthetic.encoder import train_encoder
from otreg.synthetic.examples import read_exchanges
from otreg.synthetic.fit import MiniatureSettings
from otreg.synthetic.language_model import train_language_model

__all__ = ["MiniatureSettings", "Progress", "build_miniature", "build_tower", "one_thread"]

Progress = Callable[[str, int, int], None]  # told a tower's name, its steps done, and of how many

LANGUAGE_MODEL, AUDIO_TOWER = "language_model", "audio_tower"
_TRAIN: dict[str, Callable[..., None]] = {
    LANGUAGE_MODEL: train_language_model,
    AUDIO_TOWER: train_encoder,
}
_POLL_S = 0.5


def build_miniature(
    manifests: Sequence[Path | str],
    out: Path | str,
    *,
    root: Path | str | None = None,
    texts: Sequence[Path | str] = (),
    exchanges: Sequence[Path | str] = (),
    seed: int = 0,
    settings: MiniatureSettings | None = None,
    num_processes: int = 2,
    progress: Progress | None = None,
) -> Path:
    """Train both towers, side by side, and write `out`/audio_tower and `out`/language_model.

    Args:
        manifests: speech with transcripts (JSONL, see `otreg.data.manifest`); the encoder learns from
            all of it, the language model from the transcripts (`settings.learn_transcripts`).
        out: folder to write; made where missing.
        root: as in `read_manifest`, the same for all manifests.
        texts: further text files, a sentence a line, for the language model alone.
        exchanges: files of sentences, instructions and answers for the language model (see
            `otreg.synthetic.examples`); `settings.mixture` then names the share of "answer".
        seed: of initial weights, data order and noise.
        settings: sizes, budgets, and the language model's mixture of examples.
        num_processes: 2 trains the towers at the same time (one thread each), 1 one after the other.
        progress: told "language_model" or "audio_tower", its steps done, and of how many.

    Returns:
        `out` as a path.

    Raises:
        ValueError: a manifest or text file is empty or wrong, or `out` holds towers already.
    """
    out = Path(out)
    for name in (AUDIO_TOWER, LANGUAGE_MODEL):
        if (out / name).exists():
            raise ValueError(f"{out / name} exists already; name another folder, or remove it")
    settings = settings or MiniatureSettings()
    jobs = _jobs(manifests, out, root, texts, exchanges, seed, settings)
    if num_processes == 1:
        for name, job in jobs.items():
            _TRAIN[name](*job, report=_report_to(progress, name))
    else:
        _train_side_by_side(jobs, progress)
    return out


def build_tower(
    name: str,
    manifests: Sequence[Path | str],
    out: Path | str,
    *,
    texts: Sequence[Path | str] = (),
    exchanges: Sequence[Path | str] = (),
    seed: int = 0,
    settings: MiniatureSettings | None = None,
) -> Path:
    """Train one of the towers in this process, the same as `build_miniature` would.

    Args:
        name: "audio_tower" or "language_model".
        manifests: as in `build_miniature`, like the last four.
        out: folder to write; made where missing.
        texts: further text.
        exchanges: of the language model.
        seed: of weights and data order.
        settings: sizes and steps.

    Returns:
        `out`/`name`.

    Raises:
        ValueError: as in `build_miniature`.
    """
    out = Path(out)
    if (out / name).exists():
        raise ValueError(f"{out / name} exists already; name another folder, or remove it")
    jobs = _jobs(manifests, out, None, texts, exchanges, seed, settings or MiniatureSettings())
    _TRAIN[name](*jobs[name])
    return out / name


def _jobs(
    manifests: Sequence[Path | str],
    out: Path,
    root: Path | str | None,
    texts: Sequence[Path | str],
    exchanges: Sequence[Path | str],
    seed: int,
    settings: MiniatureSettings,
) -> dict[str, tuple[Any, ...]]:
    """What each tower's function is called with."""
    utterances = [u for manifest in manifests for u in read_manifest(manifest, root=root)]
    if not utterances:
        raise ValueError("otreg miniature needs at least one manifest with utterances")
    sentences = [u.text for u in utterances] if settings.learn_transcripts else []
    for path in texts:
        sentences += _lines(path)
    if not sentences:
        raise ValueError("the language model has no text: give texts, or let it learn transcripts")
    asked = [exchange for path in exchanges for exchange in read_exchanges(path)]
    return {
        LANGUAGE_MODEL: (sentences, out / LANGUAGE_MODEL, settings, seed, asked),
        AUDIO_TOWER: (utterances, out / AUDIO_TOWER, settings, seed),
    }


def _lines(path: Path | str) -> list[str]:
    lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line]
    if not lines:
        raise ValueError(f"{path} holds no text; expected one sentence a line")
    return lines


def _report_to(progress: Progress | None, name: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(name, done, total) if progress is not None else None


def _train_side_by_side(jobs: dict[str, tuple[Any, ...]], progress: Progress | None) -> None:
    """Train each tower in a process of its own; their steps come back through a queue."""
    # Two torch processes of several threads each starve each other on two cores: one thread each.
    context = multiprocessing.get_context("spawn")
    steps = context.Queue()
    bars = transformers_logging.is_progress_bar_enabled()
    with ProcessPoolExecutor(
        len(jobs), mp_context=context, initializer=_start_worker, initargs=(steps, bars)
    ) as pool:
        names = {pool.submit(_train, name, job): name for name, job in jobs.items()}
        totals: dict[str, int] = {}
        waiting: set[Future[None]] = set(names)
        while waiting:
            done, waiting = wait(waiting, timeout=_POLL_S, return_when=FIRST_COMPLETED)
            while not steps.empty():
                name, step, totals[name] = steps.get()
                _report_to(progress, name)(step, totals[name])
            for job in done:
                job.result()
                name = names[job]
                _report_to(progress, name)(totals[name], totals[name])


_steps: Any = None  # in a worker: the queue to the parent


def _start_worker(steps: Any, bars: bool) -> None:
    global _steps
    _steps = steps
    steps.cancel_join_thread()  # a worker's end must not wait for a parent that reads no more
    one_thread()
    if not bars:
        transformers_logging.disable_progress_bar()


def _train(name: str, job: tuple[Any, ...]) -> None:
    _TRAIN[name](*job, report=lambda done, total: _steps.put((name, done, total)))


def one_thread() -> None:
    """Limit this process's torch to one thread (for workers that share the cores)."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
