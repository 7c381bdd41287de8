"""From an experiment to its steps: arms and seeds share every stage in which they agree.

Stages are run one at a time, each from the model that the former saved, so that arms which agree in
their first stages share them. From the first stage that trains LoRA on they stay together: LoRA goes on
from stage to stage and is merged into the weights at the end. Both give what one run of all stages
gives.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from otreg.evaluation.gate_specs import gate_measures
from otreg.experiment.corpora import SENTENCES, TOWER_SPEECH
from otreg.experiment.definition import Experiment, Preparation
from otreg.experiment.graph import Graph, Kind, Ref
from otreg.experiment.steps import (
    AUDIO_TOWER,
    CORPORA_STEP,
    EVALUATION,
    LANGUAGE_MODEL,
    PREPARED,
    STAGES,
    STATES,
)
from otreg.training.config import RunConfig, StageConfig, config_to_dict
from otreg.training.yaml_config import ConfigError

__all__ = ["Plan", "Trained", "unit_config", "units"]

_OF_LATER_STAGES = ("lora", "dtype")  # the rest is in the model that the former stage saved
_OF_ENCODER = ("short_mel", "dtype")


@dataclass(frozen=True)
class Trained:
    """The steps that train an arm at a seed.

    Attributes:
        steps: their identities in order; those of an arm that it goes on from come first.
        is_encoder_frozen: whether none of them trains the encoder.
    """

    steps: tuple[str, ...]
    is_encoder_frozen: bool

    @property
    def model(self) -> Ref:
        """The trained model."""
        return Ref(self.steps[-1], "model")


def units(stages: Sequence[StageConfig]) -> list[list[StageConfig]]:
    """Stages that are trained in one go, in order."""
    result: list[list[StageConfig]] = []
    has_lora = False
    for stage in stages:
        if has_lora:
            result[-1].append(stage)
        else:
            result.append([stage])
        has_lora = has_lora or "lora" in stage.train
    return result


class Plan:
    """The graph of an experiment's steps.

    Args:
        experiment: what is done.
        split: of the corpora, "test" or "development".

    Attributes:
        graph: the steps, filled by `evaluated`.
    """

    def __init__(self, experiment: Experiment, split: str) -> None:
        self.experiment = experiment
        self.split = split
        self.graph = Graph()
        self._open: list[tuple[str, int]] = []  # what is being planned, to find circles

    def evaluated(self, arm: str, seed: int) -> tuple[str, Trained]:
        """Add all that an arm at a seed needs, up to its evaluation.

        Returns:
            The identity of the evaluation, and the steps of the training.
        """
        trained = self.trained(arm, seed)
        experiment = self.experiment
        config = experiment.config(arm)
        inputs = {"model": trained.model, "language_model": self._language_model()}
        for number, step in enumerate(trained.steps):
            inputs[f"log {number}"] = Ref(step, "log")
        for number, path in enumerate(config.data.train):
            inputs[f"trained on {number}"] = self._manifest(str(path), seed)
        for name in experiment.evaluate:
            manifest = self._manifest(name, seed)
            inputs[f"corpus {name}"] = manifest
            if config.data.cache_encoder and trained.is_encoder_frozen:
                inputs[f"states {name}"] = self._states(config, {"test": [manifest]}, name)
        settings = {
            "arm": arm,
            "seed": seed,
            "corpora": list(experiment.evaluate),
            "in_domain": list(experiment.in_domain),
            "measures": experiment.as_dict()["measures"],
            "sample_measures": sorted({"wer", *gate_measures(experiment.gates)}),
            "options": dict(experiment.evaluation),
        }
        title, whom = "evaluation", f"{arm} (seed {seed})"
        step = self.graph.add(EVALUATION, arm, settings, inputs, title=title, whom=whom)
        return step, trained

    def trained(self, arm: str, seed: int) -> Trained:
        """Add the training of an arm at a seed.

        Raises:
            ConfigError: the arm goes on from itself, through others.
        """
        with self._opened(arm, seed, "let one of them start from the towers"):
            return self._train(arm, seed)

    @contextmanager
    def _opened(self, name: str, seed: int, remedy: str) -> Iterator[None]:
        """Refuse to plan what is needed for itself."""
        if (name, seed) in self._open:
            circle = self._open[self._open.index((name, seed)) :]
            names = " needs ".join(other for other, _ in [*circle, (name, seed)])
            raise ConfigError(f"{names}: a circle; {remedy}")
        self._open.append((name, seed))
        try:
            yield
        finally:
            self._open.pop()

    def _train(self, arm: str, seed: int) -> Trained:
        config = self.experiment.config(arm)
        before = None if config.model.init is None else self.trained(config.model.init, seed)
        is_frozen = not any("audio_tower" in stage.train for stage in config.stages)
        is_frozen = is_frozen and (before is None or before.is_encoder_frozen)
        manifests = {
            part: [self._manifest(str(name), seed) for name in getattr(config.data, part)]
            for part in ("train", "validation")
        }
        reads = {
            f"{part} {number}": ref
            for part, refs in manifests.items()
            for number, ref in enumerate(refs)
        }
        if config.data.cache_encoder and is_frozen:
            names = " and ".join(str(path) for path in config.data.train)
            reads["states"] = self._states(config, manifests, names)
        done = [] if before is None else list(before.steps)
        whom = f"{arm} (seed {seed})"
        for unit in units(config.stages):
            names = "+".join(stage.name for stage in unit)
            starts = {"init": Ref(done[-1], "model")} if done else self._towers()
            settings = {"run": unit_config(config, unit, seed, is_first=not done)}
            inputs = {**starts, **reads}
            title = f"stage {names}"
            done.append(self.graph.add(STAGES, names, settings, inputs, title=title, whom=whom))
        return Trained(tuple(done), is_frozen)

    def _corpora(self) -> str:
        experiment = self.experiment
        settings = {
            "type": experiment.corpora_type,
            "sizes": dict(experiment.corpora),
            "split": self.split,
        }
        label = experiment.corpora_type
        return self.graph.add(CORPORA_STEP, label, settings, title="corpora synthesised")

    def _towers(self) -> dict[str, Ref]:
        """Both towers, by the names of a run's configuration."""
        return {"audio_tower": self._audio_tower(), "language_model": self._language_model()}

    def _audio_tower(self) -> Ref:
        return self._tower(AUDIO_TOWER, "audio_tower", "encoder trained")

    def _language_model(self) -> Ref:
        return self._tower(LANGUAGE_MODEL, "language_model", "language model trained")

    def _tower(self, kind: Kind, name: str, title: str) -> Ref:
        corpora = self._corpora()
        inputs = {part: Ref(corpora, part) for part in (TOWER_SPEECH, SENTENCES)}
        for number, part in enumerate(self.experiment.kind.exchanges):
            inputs[f"exchanges {number}"] = Ref(corpora, part)
        return Ref(self.graph.add(kind, name, self.experiment.towers, inputs, title=title), name)

    def _manifest(self, name: str, seed: int) -> Ref:
        """A manifest of the corpora, or one that is prepared from others."""
        preparation = self.experiment.prepare.get(name)
        if preparation is None:
            return Ref(self._corpora(), name)
        remedy = "let one of them be made from manifests of the corpora alone"
        with self._opened(f"prepare.{name}", seed, remedy):
            return self._prepared(name, preparation, seed)

    def _prepared(self, name: str, preparation: Preparation, seed: int) -> Ref:
        inputs = {
            f"manifest {number}": self._manifest(source, seed)
            for number, source in enumerate(preparation.inputs)
        }
        whom = ""
        if preparation.model is not None:
            inputs["model"] = self.trained(preparation.model, seed).model
            whom = f"{preparation.model} (seed {seed})"
        if preparation.towers:
            inputs |= self._towers()
        settings = {"program": preparation.program, "options": dict(preparation.options)}
        title = f"manifest {name} prepared"
        step = self.graph.add(PREPARED, name, settings, inputs, title=title, whom=whom)
        return Ref(step, "manifest")

    def _states(self, config: RunConfig, manifests: dict[str, list[Ref]], name: str) -> Ref:
        """The frozen encoder's outputs for manifests."""
        model = config.model
        given = {key: getattr(model, key) for key in _OF_ENCODER if getattr(model, key) is not None}
        cut = None if "test" in manifests else config.data.interleaving()
        settings = {
            "model": given,
            "batch_size": config.data.cache_batch_size,
            "interleaving": None if cut is None else list(dataclasses.astuple(cut)),
        }
        inputs = {"audio_tower": self._audio_tower()}
        for part, refs in manifests.items():
            inputs |= {f"{part} {number}": ref for number, ref in enumerate(refs)}
        title = f"encoder outputs of {name} cached"
        return Ref(self.graph.add(STATES, "states", settings, inputs, title=title), "states")


def unit_config(
    config: RunConfig, unit: Sequence[StageConfig], seed: int, *, is_first: bool
) -> dict[str, Any]:
    """The configuration of some stages of a run as plain data, without paths.

    Args:
        config: of the whole run.
        unit: the stages.
        seed: takes the place of the configuration's own.
        is_first: whether they start from the towers; otherwise from the model that the stage before
            them saved, which then says itself what it is made of.
    """
    data = config_to_dict(config)
    names = {stage.name for stage in unit}
    data["seed"] = seed
    data["stages"] = [stage for stage in data["stages"] if stage["name"] in names]
    kept = data["model"] if is_first else {key: data["model"][key] for key in _OF_LATER_STAGES}
    starts = ("init", "audio_tower", "language_model")
    data["model"] = {key: value for key, value in kept.items() if key not in starts}
    paths = ("train", "validation", "root", "cache_dir")
    data["data"] = {key: value for key, value in data["data"].items() if key not in paths}
    return data
