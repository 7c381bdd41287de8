"""The folder of a run: what is in it, and what may be written where.

RUN/config.yaml      the resolved configuration
RUN/versions.json    of Python, otreg and the packages that decide the result
RUN/log.jsonl        every log entry of every stage
RUN/stage-NAME/      Trainer's checkpoints of a stage
RUN/encoder-cache/   the frozen encoder's outputs, with data.cache_encoder
RUN/watch/           pictures and trackers' files, with watch
RUN/model/           the final model and its processor, for from_pretrained
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from otreg.training.config import RunConfig, config_to_dict, load_config, save_config
from otreg.training.yaml_config import ConfigError
from otreg.versions import versions

__all__ = ["RunFolder", "is_finished"]


class RunFolder:
    """Paths of a run.

    Args:
        root: the folder; made by `prepare`.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.config = self.root / "config.yaml"
        self.versions = self.root / "versions.json"
        self.log = self.root / "log.jsonl"
        self.model = self.root / "model"
        self.encoder_cache = self.root / "encoder-cache"
        self.watch = self.root / "watch"

    def stage(self, name: str) -> Path:
        """The folder of a stage."""
        return self.root / f"stage-{name}"

    def prepare(self, config: RunConfig, *, resume: bool) -> None:
        """Make the folder and save what the run is made of.

        Raises:
            ConfigError: the folder holds something and the run is not resumed, or it is resumed
                with another configuration.
        """
        if self.root.exists() and not self.root.is_dir():
            raise ConfigError(f"{str(self.root)!r} is a file; name a folder for the run")
        taken = self.root.is_dir() and any(self.root.iterdir())
        if taken and not resume:
            raise ConfigError(
                f"{str(self.root)!r} is not empty; go on with it by --resume, or name another"
            )
        if resume and self.config.is_file():
            old, new = config_to_dict(load_config(self.config)), config_to_dict(config)
            difference = _first_difference(old | {"watch": None}, new | {"watch": None})
            if difference:
                raise ConfigError(
                    f"cannot resume {str(self.root)!r} with another configuration: {difference}"
                )
        elif resume and taken:
            raise ConfigError(
                f"{str(self.root)!r} is not a run (no config.yaml); nothing to resume"
            )
        self.root.mkdir(parents=True, exist_ok=True)
        save_config(config, self.config)
        self.versions.write_text(json.dumps(versions(), indent=2) + "\n", encoding="utf-8")

    def checkpoints(self, name: str) -> list[Path]:
        """A stage's checkpoints, oldest first."""
        found = []
        for path in self.stage(name).glob("checkpoint-*"):
            match = re.fullmatch(r"checkpoint-(\d+)", path.name)
            if match and (path / "trainer_state.json").is_file():
                found.append((int(match.group(1)), path))
        return [path for _, path in sorted(found)]

    def resume_point(self, stages: Sequence[str]) -> tuple[int, Path | None]:
        """The last stage that has a checkpoint, and its newest; everything before it is in there."""
        for index in reversed(range(len(stages))):
            checkpoints = self.checkpoints(stages[index])
            if checkpoints:
                return index, checkpoints[-1]
        return 0, None

    def save_model(self, model: Any, processor: Any) -> Path:
        """Write the final model in one step: a run either has its whole model or none."""
        staging = self.root / "model.tmp"
        shutil.rmtree(staging, ignore_errors=True)
        model.save_pretrained(staging)
        processor.save_pretrained(staging)
        shutil.rmtree(self.model, ignore_errors=True)
        os.replace(staging, self.model)
        return self.model


def is_finished(checkpoint: Path) -> bool:
    """Whether a checkpoint is that of its stage's last step."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return bool(state["global_step"] >= state["max_steps"])


def _first_difference(old: Any, new: Any, path: str = "") -> str | None:
    """Name the first key whose values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            found = _first_difference(old.get(key), new.get(key), f"{path}.{key}" if path else key)
            if found:
                return found
        return None
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            found = _first_difference(before, after, f"{path}.{index}")
            if found:
                return found
        return None
    return None if old == new else f"{path} was {old!r} and is now {new!r}"
