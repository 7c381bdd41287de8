"""A folder for the Hub: weights, configuration, tokenizer and processor, model card, and code."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from otreg.export.card import check_licence, model_card
from otreg.export.code import auto_map, code_files, required_packages
from otreg.export.facts import run_facts
from otreg.integrations.loading import load_speech_lm
from otreg.model import SpeechLMForConditionalGeneration

__all__ = ["export_model"]

_PLACES = ("_name_or_path", "name_or_path")


def export_model(
    run: str | Path,
    out: str | Path,
    *,
    licence: str | None = None,
    results: str | Path | None = None,
    trust_remote_code: bool = False,
) -> Path:
    """Write the model of a run as a folder that Auto classes load, with otreg and without it.

    A model of others is written as its family is, and needs no code of ours. LoRA is merged into the
    weights. Optimizer states, audio, manifests and results stay behind: the
    model is loaded and saved anew. The folder is there whole, or not at all.

    Args:
        run: a run folder, or a folder that `save_pretrained` wrote.
        out: the folder to write; new or empty.
        licence: one of the Hub's licence identifiers, for the card; None = the card says that it is
            missing.
        results: results of `otreg evaluate` for the card; None = the run's results.json, where
            there is one.
        trust_remote_code: see `otreg.integrations.load`.

    Returns:
        The folder.

    Raises:
        ValueError: no such model, a folder that holds something, results of several models, or a
            licence that is no identifier.
    """
    out = Path(out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"expected a new or empty folder to export to, {str(out)!r} is not empty")
    if licence is not None:
        check_licence(licence)
    model, processor = load_speech_lm(run, trust_remote_code=trust_remote_code)
    facts = run_facts(run, results=results)
    own = isinstance(model, SpeechLMForConditionalGeneration)
    if own:
        model.merge_lora()
    files = code_files() if own else {}
    card = model_card(model.config, facts, licence=licence, packages=required_packages(files))
    staging = out.with_name(f".{out.name}.{os.getpid()}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.parent.mkdir(parents=True, exist_ok=True)
    try:
        model.save_pretrained(staging)
        processor.save_pretrained(staging)
        for name, text in files.items():
            (staging / name).write_text(text, encoding="utf-8")
        _change(
            staging / "config.json",
            auto_map("AutoConfig", "AutoModelForMultimodalLM") if own else {},
        )
        _change(staging / "processor_config.json", auto_map("AutoProcessor") if own else {})
        (staging / "README.md").write_text(card, encoding="utf-8")
        if out.is_dir():
            out.rmdir()
        os.replace(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return out


def _change(path: Path, classes: dict[str, str]) -> None:
    """Name the file of each Auto class in a configuration, and no folder of this machine."""
    if not path.is_file():
        return
    data = _without_places(json.loads(path.read_text(encoding="utf-8")))
    if classes:
        data["auto_map"] = classes
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _without_places(value: Any) -> Any:
    """A configuration without the folders that its parts were loaded from."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if key not in _PLACES}
        return {key: _without_places(item) for key, item in kept.items()}
    return value
