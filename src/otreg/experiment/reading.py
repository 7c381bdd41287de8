"""Read an experiment from YAML and check it whole.

docs/experiments.md describes every key. What can be wrong in the file is found here, before anything
runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic

from otreg.evaluation.evaluate import evaluate_model
from otreg.evaluation.gate_specs import GateSpec, parse_specs
from otreg.evaluation.measures import GAP_MEASURES
from otreg.experiment.corpora import CORPORA, CorporaKind
from otreg.experiment.definition import Experiment, MeasureSpec, Preparation
from otreg.experiment.measure_kinds import find_measure
from otreg.experiment.options import check_options
from otreg.experiment.programs import find_program
from otreg.names import nearest
from otreg.synthetic.towers import MiniatureSettings
from otreg.training.inheritance import RECIPES, find_configuration, read_configuration
from otreg.training.yaml_config import ConfigError, check_key, describe_errors

__all__ = ["SYSTEMS", "experiment_from_dict", "load_experiment"]

SYSTEMS = Path(__file__).parent / "systems"
"""The folder of the experiments that are shipped in the package."""

KEYS = (
    "title",
    "corpora",
    "towers",
    "run",
    "prepare",
    "base",
    "arms",
    "controls",
    "evaluate",
    "in_domain",
    "evaluation",
    "measures",
    "gates",
    "descriptions",
    "error_rates",
)
GATE_MEASURES = ("wer", "cer", *GAP_MEASURES)
"""What every evaluation measures."""
_EVALUATION = {"batch_size": 64, "max_new_tokens": 80}
_NO_OPTIONS = (  # of evaluate_model: the runner gives them, or YAML cannot hold them
    *("arm", "seed", "in_domain", "encoder_cache", "sample_measures"),
    *("normalizer", "objective"),
)


def load_experiment(name: str | Path = "otreg") -> Experiment:
    """Read an experiment and check it whole.

    Args:
        name: a path, or the name of a shipped experiment.

    Raises:
        ConfigError: no such file; an unknown key, with the nearest; an arm whose overrides do not
            fit; a gate, a preparation or an arm that names what the experiment does not have;
            options that what they are for does not take.
    """
    path = find_configuration(name, SYSTEMS)
    data = read_configuration(path, SYSTEMS, sections={"run": RECIPES})
    return experiment_from_dict(data, name=path.stem, source=str(path))


def experiment_from_dict(data: Any, *, name: str, source: str) -> Experiment:
    """Validate plain data, without `inherits`, as an experiment.

    Args:
        data: as a YAML file holds it.
        name: of the experiment.
        source: the file, for errors.

    Raises:
        ConfigError: see `load_experiment`.
    """
    try:
        experiment = _build(data, name)
        _check(experiment)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from error
    return experiment


def _build(data: Any, name: str) -> Experiment:
    _mapping(data, "an experiment", KEYS)
    for key in ("corpora", "run", "arms"):
        if not data.get(key):
            raise ConfigError(f"missing key {key!r}: give it a value")
    corpora = dict(_mapping(data["corpora"], "corpora"))
    kind_name = corpora.pop("type", next(iter(CORPORA)))
    _check_name("corpora", kind_name, CORPORA, "corpora.type")
    kind = CORPORA[kind_name]
    controls = _arms(data.get("controls"), "controls")
    arms = _arms(data["arms"], "arms")
    for control in controls:
        if control in arms:
            raise ConfigError(f"controls.{control}: an arm has this name; give it another")
    gates = data.get("gates") or []
    if not isinstance(gates, list):
        raise ConfigError(f"gates: expected a list, received {gates!r}")
    evaluate = _names(data.get("evaluate", list(kind.evaluation)), "evaluate")
    return Experiment(
        name=name,
        title=str(data.get("title") or name),
        corpora_type=kind_name,
        corpora=_settings(kind.settings, corpora, "corpora"),
        towers=_settings(MiniatureSettings, data.get("towers") or {}, "towers"),
        run=_mapping(data["run"], "run"),
        arms=arms | controls,
        controls=tuple(controls),
        base=str(data.get("base", "base")),
        prepare={
            key: _preparation(value, f"prepare.{key}")
            for key, value in _present(data.get("prepare"), "prepare").items()
        },
        evaluate=evaluate,
        in_domain=_in_domain(data, kind, evaluate),
        evaluation={**_EVALUATION, **_mapping(data.get("evaluation") or {}, "evaluation")},
        measures={
            key: _measure(key, value, evaluate)
            for key, value in _present(data.get("measures"), "measures").items()
        },
        gates=tuple(gates),
        descriptions={
            arm: str(text)
            for arm, text in _present(data.get("descriptions"), "descriptions").items()
            if arm in arms or arm in controls or arm not in _named(data)
        },
        error_rates=_truth(data.get("error_rates", True), "error_rates"),
    )


def _check(experiment: Experiment) -> None:
    """Everything that is named exists, and every arm makes a configuration."""
    _check_name("arm", experiment.base, experiment.arms, "base")
    for arm in experiment.descriptions:
        _check_name("arm", arm, experiment.arms, "descriptions")
    manifests = (*experiment.kind.training, *experiment.kind.evaluation, *experiment.prepare)
    for name, preparation in experiment.prepare.items():
        _check_preparation(experiment, name, preparation, manifests)
    for name in experiment.evaluate:
        _check_name("manifest", name, manifests, "evaluate")
    for arm in experiment.arms:
        config = experiment.config(arm)
        for path in (*config.data.train, *config.data.validation):
            _check_name("manifest", str(path), manifests, f"arm {arm}: data")
        if config.model.init is not None:
            _check_name("arm", config.model.init, experiment.arms, f"arm {arm}: model.init")
    check_options(
        evaluate_model, experiment.evaluation, "evaluation", num_positional=3, given=_NO_OPTIONS
    )
    known: list[str] | None = list(GATE_MEASURES)
    for name, measure in experiment.measures.items():
        for corpus in measure.corpora:
            _check_name("corpus", corpus, experiment.evaluate, f"measures.{name}.corpora")
        kind = find_measure(measure.type)
        where = f"measures.{name}.options"
        check_options(kind.function, measure.options, where, num_positional=1)
        if kind.is_of_one_corpus and len(measure.corpora) != 1:
            raise ConfigError(
                f"measures.{name}.corpora: expected one, which names the records of "
                f"{measure.type!r}; received {', '.join(measure.corpora)}"
            )
        known = None if known is None or kind.names is None else [*known, *kind.names]
    for spec in parse_specs(experiment.gates):
        _check_gate(experiment, spec, known)


def _check_preparation(
    experiment: Experiment, name: str, preparation: Preparation, manifests: Sequence[str]
) -> None:
    where = f"prepare.{name}"
    if name in (*experiment.kind.training, *experiment.kind.evaluation):
        raise ConfigError(f"{where}: the corpora have a manifest of this name; give it another")
    program = find_program(preparation.program)
    for manifest in preparation.inputs:
        _check_name("manifest", manifest, manifests, f"{where}.from")
    if preparation.model is not None:
        _check_name("arm", preparation.model, experiment.arms, f"{where}.model")
    towers = dict.fromkeys(("audio_tower", "language_model"), f"{where}.towers")
    given = ["model"] if preparation.model is not None else []
    given += towers if preparation.towers else []
    check_options(
        program,
        preparation.options,
        f"{where}.options",
        num_positional=2,
        given=given,
        places={"model": f"{where}.model", **towers},
    )


def _check_gate(experiment: Experiment, spec: GateSpec, measures: list[str] | None) -> None:
    """A gate's arms, corpora and measures are those of the experiment.

    Args:
        experiment: the experiment.
        spec: the gate.
        measures: what is measured; None = not known before it runs.
    """
    where = f"gate {spec.name!r}"
    for comparison in spec.comparisons:
        for side in (comparison.of, comparison.other):
            if side is None:
                continue
            if measures is not None:
                _check_name("measure", side.measure, measures, where)
            for arm in side.arms:
                _check_name("arm", arm, experiment.arms, where)
            for corpus in side.corpora:
                _check_name("corpus", corpus, experiment.evaluate, where)


def _preparation(value: Any, where: str) -> Preparation:
    data = _mapping(value, where, ("program", "from", "model", "towers", "options"))
    for key in ("program", "from"):
        if key not in data:
            raise ConfigError(f"missing key '{where}.{key}': give it a value")
    model = data.get("model")
    return Preparation(
        str(data["program"]),
        _names(data["from"], f"{where}.from"),
        None if model is None else str(model),
        _truth(data.get("towers") or False, f"{where}.towers"),
        _mapping(data.get("options") or {}, f"{where}.options"),
    )


def _truth(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{where}: expected true or false, received {value!r}")
    return value


def _named(data: Mapping[str, Any]) -> set[str]:
    """The names under arms and controls, also of those that are taken back."""
    return {*data["arms"], *(data.get("controls") or {})}


def _in_domain(
    data: Mapping[str, Any], kind: CorporaKind, evaluate: tuple[str, ...]
) -> tuple[str, ...]:
    """The corpora of the training data's kind: those given, or the kind's own that are evaluated."""
    if "in_domain" not in data:
        return tuple(name for name in kind.in_domain if name in evaluate)
    names = _names(data["in_domain"], "in_domain") if data["in_domain"] else ()
    for name in names:
        _check_name("corpus", name, evaluate, "in_domain")
    return names


def _measure(name: str, value: Any, evaluate: tuple[str, ...]) -> MeasureSpec:
    where = f"measures.{name}"
    data = _mapping(value or {}, where, ("type", "corpora", "options"))
    corpora = _names(data["corpora"], f"{where}.corpora") if "corpora" in data else evaluate
    options = _mapping(data.get("options") or {}, f"{where}.options")
    return MeasureSpec(str(data.get("type", name)), corpora, options)


def _present(value: Any, where: str) -> dict[str, Any]:
    """A mapping from names, without those that `null` takes back from what is inherited."""
    given = _mapping(value or {}, where)
    return {str(name): item for name, item in given.items() if item is not None}


def _arms(value: Any, where: str) -> dict[str, tuple[str, ...]]:
    arms = {}
    for name, overrides in _present(value, where).items():
        if not isinstance(overrides, list) or not all(isinstance(o, str) for o in overrides):
            raise ConfigError(
                f"{where}.{name}: expected a list of overrides key=value, received {overrides!r}"
            )
        arms[name] = tuple(overrides)
    return arms


def _settings(schema: type, values: Any, where: str) -> dict[str, Any]:
    """All settings of a dataclass as plain data, with the values that are given."""
    given = _mapping(values, where, [item.name for item in dataclasses.fields(schema)])
    try:
        settings: Any = pydantic.TypeAdapter(schema).validate_python(dict(given))
    except pydantic.ValidationError as error:
        raise describe_errors(error, schema, where) from None
    plain: dict[str, Any] = dataclasses.asdict(settings)
    return plain


def _check_name(what: str, name: str, known: Iterable[str], where: str) -> None:
    """Refuse the name of something that the experiment does not have."""
    names = list(known)
    if name not in names:
        raise ConfigError(f"{where}: unknown {what} {name!r}; {nearest(name, names)}")


def _mapping(value: Any, where: str, known: Sequence[str] | None = None) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: expected a mapping, received {type(value).__name__}")
    for key in value:
        if known is not None:
            check_key(str(key), known, "" if where == "an experiment" else where)
    return value


def _names(value: Any, where: str) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not values or not all(isinstance(v, str) for v in values):
        raise ConfigError(f"{where}: expected the names of manifests, received {value!r}")
    return tuple(values)
