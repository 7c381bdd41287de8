"""An experiment as data: frozen dataclasses, read from YAML by `otreg.experiment.reading`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from otreg.experiment.corpora import CORPORA, CorporaKind
from otreg.synthetic.corpus import SPLITS
from otreg.training.config import RunConfig, config_from_dict
from otreg.training.yaml_config import apply_overrides, check_switched_off

__all__ = ["SPLITS", "Experiment", "MeasureSpec", "Preparation"]


@dataclass(frozen=True)
class Preparation:
    """A manifest made from others.

    Attributes:
        program: of `otreg.experiment.programs.PROGRAMS`, or `package.module:callable`.
        inputs: names of manifests: of the corpora, or prepared before.
        model: the arm whose trained model the program is given, at the same seed; None = none.
        towers: whether it is given the towers, as `audio_tower` and `language_model`.
        options: keyword arguments of the program.
    """

    program: str
    inputs: tuple[str, ...]
    model: str | None = None
    towers: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MeasureSpec:
    """A measure beyond error rates and gap.

    Attributes:
        type: of `otreg.experiment.measure_kinds.MEASURES`, or `package.module:callable`.
        corpora: names of manifests, of those evaluated on.
        options: keyword arguments of the measure.
    """

    type: str
    corpora: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """What an experiment does.

    Attributes:
        name: of the file, without its ending.
        title: of the report.
        corpora_type: the kind of corpora.
        corpora: their sizes, all of them.
        towers: sizes and budgets of the towers, all of them.
        run: a configuration as `otreg train` takes it. `data.train` and `data.validation` name
            manifests of this experiment; `model.init` may name an arm to go on from.
        arms: overrides of `run`, by name, controls included.
        controls: those of the arms that are expected to fail.
        base: the arm that others are compared with.
        prepare: manifests to make, by name.
        evaluate: names of the manifests to evaluate on.
        in_domain: those of `evaluate` that are of the training data's kind.
        evaluation: options of `otreg.evaluation.evaluate.evaluate_model`.
        measures: what is measured beyond error rates and gap, by name.
        gates: gates and controls to be judged, see `otreg.evaluation.gate_specs`.
        descriptions: of the arms, in a few words.
        error_rates: whether error rates are shown; False where nothing is to be transcribed.
    """

    name: str
    title: str
    corpora_type: str
    corpora: Mapping[str, Any]
    towers: Mapping[str, Any]
    run: Mapping[str, Any]
    arms: Mapping[str, tuple[str, ...]]
    controls: tuple[str, ...]
    base: str
    prepare: Mapping[str, Preparation]
    evaluate: tuple[str, ...]
    in_domain: tuple[str, ...]
    evaluation: Mapping[str, Any]
    measures: Mapping[str, MeasureSpec]
    gates: tuple[Mapping[str, Any], ...]
    descriptions: Mapping[str, str]
    error_rates: bool = True

    @property
    def kind(self) -> CorporaKind:
        """The kind of its corpora."""
        return CORPORA[self.corpora_type]

    def config(self, arm: str) -> RunConfig:
        """The configuration of an arm, with names for paths.

        Raises:
            ConfigError: the arm's overrides do not make a configuration.
        """
        data = apply_overrides(self.run, self.arms[arm])
        if not (data.get("data") or {}).get("train"):
            data["data"] = {**(data.get("data") or {}), "train": [self.kind.training[0]]}
        config = config_from_dict(data, source=f"experiment {self.name}, arm {arm}")
        check_switched_off(self.run, self.arms[arm])
        return config

    def as_dict(self) -> dict[str, Any]:
        """The resolved experiment as plain data."""
        return dataclasses.asdict(self)
