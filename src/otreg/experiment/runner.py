"""The main job in one call: corpora, tiny towers, two stages in several arms, evaluation, report.

What does not depend on a seed or an arm (corpora, towers, encoder outputs) is made once and kept in
the output folder. Then, for every seed, arms that agree in their first stage share it, and each arm
goes on from there. All training and evaluation is that of `otreg train` and `otreg evaluate`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import multiprocessing
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from otreg.names import nearest
from otreg.synthetic.demo_corpora import IN_DOMAIN, CorporaSettings, DemoCorpora, build_demo_corpora
from otreg.synthetic.towers import MiniatureSettings, build_miniature, one_thread
from otreg.training.config import (
    STAGE_MODEL_KEYS,
    RunConfig,
    config_from_dict,
    config_to_dict,
    load_config,
)
from otreg.training.yaml_config import ConfigError, apply_overrides, parse_yaml

logger = logging.getLogger(__name__)

RECIPE = Path(__file__).parent / "systems" / "otreg.yaml"


@dataclass(frozen=True)
class DemoRecipe:
    """What the demo does; read from systems/otreg.yaml.

    Attributes:
        corpora: sizes of the synthetic corpora.
        miniature: sizes and budgets of the towers.
        run: a configuration as `otreg train` takes it, without model and data paths.
        arms: overrides of `run`, by name; the one named "base" is what others are compared with.
        descriptions: of the arms, in a few words.
    """

    corpora: CorporaSettings
    miniature: MiniatureSettings
    run: Mapping[str, Any]
    arms: Mapping[str, Sequence[str]]
    descriptions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path | str = RECIPE) -> DemoRecipe:
        """Read a recipe.

        Raises:
            ConfigError: an unknown key.
        """
        data = parse_yaml(Path(path).read_text(encoding="utf-8"), source=str(path))
        for key in data:
            if key not in cls.__dataclass_fields__:
                raise ConfigError(
                    f"{path}: unknown key {key!r}; {nearest(key, cls.__annotations__)}"
                )
        return cls(
            CorporaSettings(**data["corpora"]),
            MiniatureSettings(**data["miniature"]),
            data["run"],
            data["arms"],
            data.get("descriptions", {}),
        )


def run_demo(
    out: Path | str,
    *,
    seeds: int = 1,
    arms: Sequence[str] | None = None,
    recipe: DemoRecipe | None = None,
    split: str = "test",
    num_processes: int = 2,
    progress: Callable[[str], None] = logger.info,
) -> dict[str, Any]:
    """Run the demo and write `out`/results.json and `out`/report.html.

    Args:
        out: folder for everything; what an earlier call finished in it is used again.
        seeds: how many seeds, from 0.
        arms: which of the recipe's arms; None = all. The arm "base" is always among them.
        recipe: what to do; None = systems/otreg.yaml.
        split: "test", or "development" for the corpora that choices are made on.
        num_processes: arms trained side by side, one thread each.
        progress: told of each step in one line.

    Returns:
        The results, as in results.json.

    Raises:
        ConfigError: an unknown arm.
        ImportError: when the extra `demo` is not installed.
    """
    from otreg.evaluation.report import write_report
    from otreg.evaluation.results import environment, merge_results, write_results

    out = Path(out)
    recipe = recipe or DemoRecipe.load()
    chosen = _choose_arms(recipe, arms)
    clock = _Clock(progress)
    corpora = build_demo_corpora(out / "corpora", recipe.corpora, split=split)
    clock.done("corpora synthesised")
    towers = _towers(out, corpora, recipe)
    clock.done("encoder and language model trained")
    jobs = [
        _Arm(name, seed, _arm_config(recipe, name, seed, towers, corpora, out))
        for seed in range(seeds)
        for name in chosen
    ]
    parts = _run_arms(jobs, out, corpora, split, num_processes, clock)
    order = {name: number for number, name in enumerate(chosen)}
    parts.sort(key=lambda part: (part["rows"][0]["seed"], order[part["rows"][0]["arm"]]))
    results = merge_results(
        [
            *parts,
            environment(),
            {
                "config": {
                    "corpora": asdict(recipe.corpora),
                    "miniature": asdict(recipe.miniature),
                    "run": dict(recipe.run),
                    "arms": {name: list(recipe.arms[name]) for name in chosen},
                    "seeds": seeds,
                    "split": split,
                },
                "arm_descriptions": {
                    name: recipe.descriptions[name]
                    for name in chosen
                    if name in recipe.descriptions
                },
                "command": f"otreg demo --seeds {seeds} --arms {','.join(chosen)}",
                "seconds": clock.times,
            },
        ]
    )
    write_results(results, out / "results.json")
    write_report(results, out / "report.html", title="OTReg in miniature")
    clock.done("report written")
    return results


class _Clock:
    """Says how long each step took, and keeps it."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.start = self.last = time.monotonic()
        self.times: dict[str, float] = {}

    def done(self, what: str) -> None:
        now = time.monotonic()
        self.times[what] = round(now - self.last, 1)
        self.say(f"{now - self.start:6.0f} s  {what}")
        self.last = now


@dataclass(frozen=True)
class _Arm:
    name: str
    seed: int
    config: RunConfig

    @property
    def first_stage(self) -> RunConfig:
        return _replace(self.config, stages=self.config.stages[:1])

    def rest(self, first: Path) -> RunConfig:
        """The later stages, going on from the model of the first."""
        kept = ("lora", "dtype", *STAGE_MODEL_KEYS)  # the rest is the first stage's model's own
        fixed = {name: None for name in vars(self.config.model) if name not in kept}
        model = _replace(self.config.model, **(fixed | {"init": str(first)}))
        return _replace(self.config, model=model, stages=self.config.stages[1:])


def _replace(config: Any, **changes: Any) -> Any:
    return dataclasses.replace(config, **changes)  # pydantic's dataclasses, which mypy does not see


def _choose_arms(recipe: DemoRecipe, arms: Sequence[str] | None) -> list[str]:
    for name in arms or ():
        if name not in recipe.arms:
            raise ConfigError(f"unknown arm {name!r}; {nearest(name, list(recipe.arms))}")
    return [name for name in recipe.arms if arms is None or name in arms or name == "base"]


def _digest(*values: Any) -> str:
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _towers(out: Path, corpora: DemoCorpora, recipe: DemoRecipe) -> Path:
    """Train the towers, or take those that stand there, trained by the same recipe on the same data."""
    data = [
        hashlib.sha256(path.read_bytes()).hexdigest() for path in (corpora.towers, corpora.text)
    ]
    folder = out / "towers" / _digest(asdict(recipe.miniature), data)
    if not folder.is_dir():
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        build_miniature([corpora.towers], partial, texts=[corpora.text], settings=recipe.miniature)
        partial.rename(folder)
    return folder


def _arm_config(
    recipe: DemoRecipe, name: str, seed: int, towers: Path, corpora: DemoCorpora, out: Path
) -> RunConfig:
    run = apply_overrides(recipe.run, recipe.arms[name])
    run["seed"] = seed
    run["model"] |= {
        "audio_tower": str(towers / "audio_tower"),
        "language_model": str(towers / "language_model"),
    }
    run["data"] |= {
        "train": [str(corpora.train)],
        "cache_dir": str(out / "encoder-cache" / towers.name),
    }
    config = config_from_dict(run, source=f"otreg.yaml, arm {name}")
    if len(config.stages) < 2:
        raise ConfigError(
            f"the demo's run has {len(config.stages)} stage in arm {name!r}, but needs two or more: "
            "the arms go on from the first, which those that agree in it share"
        )
    return config


class _Pool(ProcessPoolExecutor):
    """A pool that does not start what still waits when something has failed."""

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self.shutdown(wait=True, cancel_futures=error is not None)


def _run_arms(
    jobs: Sequence[_Arm],
    out: Path,
    corpora: DemoCorpora,
    split: str,
    num_processes: int,
    clock: _Clock,
) -> list[dict[str, Any]]:
    """Train each distinct first stage once, then every arm from it, as many at a time as allowed."""
    context = multiprocessing.get_context("spawn")
    parts: list[dict[str, Any]] = []
    with _Pool(num_processes, mp_context=context, initializer=one_thread) as pool:
        cache = out / "encoder-cache" / Path(str(jobs[0].config.model.audio_tower)).parent.name
        manifests = {"train": corpora.train, **_evaluation(corpora, split)}
        cached = [
            pool.submit(_cache_corpus, jobs[0].config, name, manifest, cache)
            for name, manifest in manifests.items()
        ]
        for future in cached:
            future.result()
        clock.done("encoder outputs cached")
        waiting: dict[str, list[_Arm]] = {}
        firsts: dict[str, Path] = {}
        for job in jobs:
            key = _digest(config_to_dict(job.first_stage))
            waiting.setdefault(key, []).append(job)
            firsts[key] = out / "runs" / f"first-stage-{key}"
        pending: dict[Future[Any], tuple[str, _Arm | None]] = {
            pool.submit(_train, waiting[key][0].first_stage, folder): (key, None)
            for key, folder in firsts.items()
        }
        while pending:
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                key, arm = pending.pop(future)
                if arm is None:
                    future.result()
                    names = ", ".join(f"{job.name} (seed {job.seed})" for job in waiting[key])
                    clock.done(f"first stage of {names}")
                    for job in waiting[key]:
                        folder = out / "runs" / f"{job.name}-seed{job.seed}"
                        config = job.rest(firsts[key])
                        submitted = pool.submit(
                            _train_and_evaluate, job, config, folder, corpora, split, cache
                        )
                        pending[submitted] = (key, job)
                else:
                    part: dict[str, Any] = future.result()  # type: ignore[assignment]
                    parts.append(part)
                    clock.done(f"{arm.name} (seed {arm.seed}) trained and evaluated")
    return parts


def _cache_corpus(config: RunConfig, name: str, manifest: Path, cache: Path) -> None:
    """Encode a corpus once; the encoder is frozen from here on."""
    from otreg.data.dataset import SpeechTextDataset
    from otreg.prepare.encoder_states import build_encoder_cache
    from otreg.training.building import build_model

    model, processor = build_model(config.model)
    dataset = SpeechTextDataset([manifest], processor)
    build_encoder_cache(model, dataset, cache / name, batch_size=config.data.cache_batch_size)


def _evaluation(corpora: DemoCorpora, split: str) -> dict[str, Path]:
    return {f"{split}-{name}": manifest for name, manifest in corpora.evaluation.items()}


def _train(config: RunConfig, folder: Path) -> None:
    """Train, unless the folder holds the finished run of this very configuration."""
    from otreg.training.stages import train

    saved = folder / "config.yaml"
    if (folder / "model").is_dir() and saved.is_file() and load_config(saved) == config:
        return
    shutil.rmtree(folder, ignore_errors=True)
    train(config, folder, quiet=True)


def _train_and_evaluate(
    arm: _Arm, config: RunConfig, folder: Path, corpora: DemoCorpora, split: str, cache: Path
) -> dict[str, Any]:
    from otreg.data.dataset import SpeechTextDataset
    from otreg.evaluation.evaluate import evaluate_model
    from otreg.evaluation.results import read_results, write_results
    from otreg.model.loading import load_model
    from otreg.prepare.encoder_states import build_encoder_cache

    _train(config, folder)
    results = folder / f"results-{split}.json"
    if results.is_file():
        return read_results(results)
    model, processor = load_model(str(folder))
    caches = {
        name: build_encoder_cache(
            model, SpeechTextDataset([manifest], processor), cache / f"{split}-{name}"
        )
        for name, manifest in corpora.evaluation.items()
    }
    part = evaluate_model(
        model,
        processor,
        corpora.evaluation,
        arm=arm.name,
        seed=arm.seed,
        in_domain={IN_DOMAIN},
        batch_size=64,
        max_new_tokens=80,
        encoder_cache=caches,
    )
    logs = [Path(str(config.model.init)) / "log.jsonl", folder / "log.jsonl"]
    part["curves"] = [
        {"arm": arm.name, "seed": arm.seed, **record}
        for log in logs
        for record in map(json.loads, log.read_text(encoding="utf-8").splitlines())
        if "loss" in record
    ]
    write_results(part, results)
    return part
