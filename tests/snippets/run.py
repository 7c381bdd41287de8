"""Runs the blocks of a page in its scene."""

from __future__ import annotations

import contextlib
import glob
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from snippets.markdown import Block
from snippets.scenes import Scene

MAX_STEPS = 2
TINY = {"hidden_size": 16, "encoder_layers": 1, "num_mels": 16, "encoder_epochs": 1} | {
    "language_model_layers": 1,
    "vocab_size": 40,
    "language_model_steps": 4,
    "encoder_batch_size": 2,
}


@contextmanager
def quick() -> Iterator[None]:
    """Training of a few steps on a CPU, tiny towers, and no network, whatever a recipe says."""
    import dataclasses

    import huggingface_hub.constants

    import otreg.training
    import otreg.training.config as config
    from otreg.synthetic import towers

    load = config.load_config

    def short(*arguments: Any, **options: Any) -> Any:
        loaded = load(*arguments, **options)
        stages = [
            dataclasses.replace(
                stage,
                steps=MAX_STEPS,
                epochs=None,
                batch_size=4 if stage.max_tokens is None else None,
                gradient_accumulation_steps=1,
                trainer=stage.trainer | {"use_cpu": True, "dataloader_num_workers": 0},
            )
            for stage in loaded.stages
        ]
        return dataclasses.replace(loaded, stages=stages)

    def in_this_process(manifests: Any, out: Path, **options: Any) -> Path:
        kept = {k: v for k, v in options.items() if k in ("texts", "exchanges", "seed")}
        kept["settings"] = dataclasses.replace(options["settings"], **TINY)
        for name in ("audio_tower", "language_model"):
            towers.build_tower(name, manifests, out, **kept)
        return Path(out)

    with (
        mock.patch.object(config, "load_config", short),
        mock.patch.object(otreg.training, "load_config", short),
        mock.patch.object(towers, "build_miniature", in_this_process),
        mock.patch.object(huggingface_hub.constants, "HF_HUB_OFFLINE", True),
    ):
        yield


@contextmanager
def inside(scene: Scene) -> Iterator[None]:
    """The scene's folder as the current one and on the path of imports."""
    before, known, places = Path.cwd(), set(sys.modules), list(sys.path)
    os.chdir(scene.folder)
    sys.path.insert(0, str(scene.folder))
    patched = scene.names.pop("patched", None)
    with contextlib.ExitStack() as stack:
        if patched is not None:
            stack.enter_context(_family(*patched))
        for around in scene.around:
            stack.enter_context(around)
        try:
            yield
        finally:
            os.chdir(before)
            sys.path[:] = places
            for name in set(sys.modules) - known:
                file = getattr(sys.modules[name], "__file__", None) or ""
                if file.startswith(str(scene.folder)):
                    del sys.modules[name]


@contextmanager
def _family(family: Any, folder: Path) -> Iterator[None]:
    """`load` as tests/integrations loads a family, with what stands for packages that are missing."""

    def load(name: str) -> Any:
        assert Path(name).resolve() == folder.resolve(), name
        return family.load(folder)

    with family.stand_in(), mock.patch("otreg.integrations.load", load):
        yield


def run_page(found: list[Block], scene: Scene) -> None:
    """Run what is not left out, in the order of the page; compare outputs.

    Raises:
        AssertionError: a command fails, or something else is printed than the page says.
    """
    printed = ""
    with quick(), inside(scene):
        for block in found:
            if block.kind == "file":
                path = scene.folder / block.title
                assert not path.exists(), f"{block.where}: {block.title} is there already"
                path.write_text(block.code, encoding="utf-8")
            elif block.kind == "output":
                compare(block, printed)
            elif block.kind == "python" and not block.is_left_out:
                printed = run_python(block, scene)
            elif block.kind == "shell":
                printed = "".join(
                    run_command(block, words)
                    for words in block.commands()
                    if not block.is_marked(words)
                )


def run_python(block: Block, scene: Scene) -> str:
    """Run it with the page's names; what it prints."""
    importlib.invalidate_caches()
    lines = "\n" * (block.line - 1)  # so that a traceback has the page's lines
    code = compile(lines + block.code, block.page, "exec")
    scene.names["__name__"] = "snippet"
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, scene.names)
    return out.getvalue()


def run_command(block: Block, words: list[str]) -> str:
    """Run one command in the current folder, with patterns of files written out; what it prints."""
    from otreg.cli import main

    where = f"{block.where}: {shlex.join(words)}"
    words = [name for word in words for name in sorted(glob.glob(word)) or [word]]
    settings = {}
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        name, _, value = words[0].partition("=")
        settings[name], words = value, words[1:]
    if words[0] == "otreg":
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, settings),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = main(words[1:])
        assert code == 0, f"{where}\n{err.getvalue()}"
        return out.getvalue()
    assert words[0] == "python", f"{where}: the test runs otreg and python alone; mark it"
    done = subprocess.run(
        [sys.executable, *words[1:]],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{where}\n{done.stderr}"
    return done.stdout


def compare(block: Block, printed: str) -> None:
    """What was printed is what the page says; "…" stands for anything."""
    expected = ".*".join(re.escape(part) for part in block.code.strip().split("…"))
    assert re.fullmatch(expected, printed.strip(), re.DOTALL), (
        f"{block.where}: the page says\n{block.code}\nand this was printed\n{printed}"
    )
