"""A trained model and its processor, from a run folder or a folder of `save_pretrained`."""

from __future__ import annotations

import re
from pathlib import Path

from otreg.model.modeling import SpeechLMForConditionalGeneration
from otreg.model.processing import SpeechLMProcessor

__all__ = ["load_model", "model_folder", "place_of"]


def load_model(
    path: str, *, dtype: str | None = None
) -> tuple[SpeechLMForConditionalGeneration, SpeechLMProcessor]:
    """Load the model of a run, of a folder that `save_pretrained` wrote, or of a Hub id.

    Raises:
        ValueError: there is no such model.
    """
    place = place_of(path)
    try:
        model = SpeechLMForConditionalGeneration.from_pretrained(place, dtype=dtype or "auto")
        processor = SpeechLMProcessor.from_pretrained(place)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot load the model in {str(place)!r}: {error}") from error
    return model, processor


def place_of(name: str | Path) -> str | Path:
    """Where a model is: a folder (Path), or a Hub id (str) if there is no such folder and it reads so.

    Raises:
        ValueError: neither.
    """
    if not Path(name).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
        return str(name)
    return model_folder(name)


def model_folder(path: str | Path) -> Path:
    """The folder to load a model from: a run's `model`, or the folder itself.

    Args:
        path: a run folder, or a folder that `save_pretrained` wrote.

    Raises:
        ValueError: neither.
    """
    path = Path(path)
    for folder in (path / "model", path):
        if (folder / "config.json").is_file():
            return folder
    if not path.exists():
        raise ValueError(f"no such run or model folder: {str(path)!r}")
    if (path / "config.yaml").is_file():
        raise ValueError(
            f"the run {str(path)!r} has no model yet: finish it with otreg train … --resume"
        )
    raise ValueError(f"{str(path)!r} is neither a run nor a model folder (no config.json in it)")
