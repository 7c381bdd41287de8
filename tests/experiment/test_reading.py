"""Experiments as YAML: what they inherit, and that every mistake is found before anything runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from otreg.experiment.reading import SYSTEMS, load_experiment
from otreg.training.yaml_config import ConfigError


def load(folder: Path, text: str, name: str = "mine"):
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return load_experiment(path)


def test_every_shipped_experiment_is_valid() -> None:
    names = [path.stem for path in SYSTEMS.glob("*.yaml")]
    assert "otreg" in names
    for name in names:
        assert load_experiment(name).name == name


def test_no_arm_of_otreg_trains_longer_than_another() -> None:
    experiment = load_experiment("otreg")
    assert list(experiment.arms) == ["base", "ctc", "otreg-paper", "otreg", "best"]
    steps = {tuple(s.steps for s in experiment.config(arm).stages) for arm in experiment.arms}
    assert steps == {(300, 320)}


def test_an_experiment_inherits_another_and_its_run_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("inherits: miniature\nstages: {adapt: {steps: 7}}\n")
    text = "inherits: otreg\nrun: {inherits: recipe.yaml, seed: 3}\ncorpora: {test_utterances: 9}\n"
    experiment = load(tmp_path, text)
    config = experiment.config("otreg")
    assert (config.seed, config.stages[0].steps, config.stages[1].steps) == (3, 7, 320)
    assert experiment.corpora["test_utterances"] == 9
    assert experiment.corpora["train_utterances"] == 2000
    assert experiment.towers["units"] == "phonemes"
    changed = load(tmp_path, "inherits: mine.yaml\nrun: {stages: {align: {steps: 8}}}\n", "more")
    assert [stage.steps for stage in changed.config("base").stages] == [7, 8]


def test_experiments_are_frozen(tmp_path: Path) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_experiment("otreg").base = "otreg"  # type: ignore[misc]


def test_arms_read_the_first_training_manifest_unless_they_name_others(tmp_path: Path) -> None:
    text = (
        "inherits: otreg\n"
        "prepare: {half: {program: subset, from: train, options: {share: 0.5}}}\n"
        "arms: {small: ['data.train=[half]']}\n"
    )
    experiment = load(tmp_path, text)
    assert experiment.config("base").data.train == [Path("train")]
    assert experiment.config("small").data.train == [Path("half")]


def test_null_takes_an_inherited_arm_back(tmp_path: Path) -> None:
    experiment = load(tmp_path, "inherits: otreg\narms: {ctc: null, otreg-paper: null}\n")
    assert list(experiment.arms) == ["base", "otreg", "best"]
    assert list(experiment.descriptions) == ["base", "otreg", "best"]


MISTAKES = {
    "key": ("armes: {}", r"unknown key 'armes': did you mean 'arms'"),
    "corpora": (
        "corpora: {type: dmeo}",
        r"corpora\.type: unknown corpora 'dmeo'; did you mean 'demo'",
    ),
    "size": ("corpora: {train_uterances: 3}", r"did you mean 'train_utterances'"),
    "size's type": ("corpora: {train_utterances: many}", r"corpora: train_utterances.*'many'"),
    "towers": ("towers: {unit: phonemes}", r"towers\.unit.*did you mean 'units'"),
    "tower's value": ("towers: {units: letters}", r"towers: units.*'letters'"),
    "override": ("arms: {mine: [stages.algin.steps=3]}", r"no item 'algin'.*'align'"),
    "objective": (
        "arms: {mine: ['stages.align.objectives.otrg={weight: 1}']}",
        r"arm mine.*'otrg'.*'otreg'",
    ),
    "not an override": ("arms: {mine: otreg}", r"arms\.mine: expected a list of overrides"),
    "base": ("base: bas", r"base: unknown arm 'bas'; did you mean 'base'"),
    "description": (
        "descriptions: {bse: x}",
        r"descriptions: unknown arm 'bse'; did you mean 'base'",
    ),
    "control of an arm's name": ("controls: {otreg: []}", r"controls\.otreg: an arm has this"),
    "manifest": (
        "arms: {mine: ['data.train=[trian]']}",
        r"arm mine: data: unknown manifest 'trian'.*'train'",
    ),
    "after": (
        "arms: {mine: [model.init=bse]}",
        r"arm mine: model\.init: unknown arm 'bse'.*'base'",
    ),
    "evaluated": (
        "evaluate: [in-domian]",
        r"evaluate: unknown manifest 'in-domian'; did you mean 'in-domain'",
    ),
    "in domain": (
        "in_domain: [voice]",
        r"in_domain: unknown corpus 'voice'; did you mean 'voices'",
    ),
    "program": (
        "prepare: {x: {program: subst, from: train}}",
        r"unknown program 'subst'.*'subset'",
    ),
    "own program": (
        "prepare: {x: {program: 'no:no', from: train}}",
        r"program 'no:no' cannot be imported",
    ),
    "source": (
        "prepare: {x: {program: subset, from: trains}}",
        r"x\.from: unknown manifest 'trains'.*'train'",
    ),
    "no source": ("prepare: {x: {program: subset}}", r"missing key 'prepare\.x\.from'"),
    "prepared name": ("prepare: {train: {program: subset, from: train}}", r"have a manifest of"),
    "model": (
        "prepare: {x: {program: subset, from: train, model: bse}}",
        r"x\.model: unknown arm 'bse'.*'base'",
    ),
    "evaluation": (
        "evaluation: {max_new_token: 5}",
        r"'evaluation\.max_new_token': did you mean 'max_new_tokens'",
    ),
    "evaluation's own": ("evaluation: {arm: x}", r"unknown key 'evaluation\.arm'"),
    "program's option": (
        "prepare: {x: {program: subset, from: train, options: {shar: .5}}}",
        r"'prepare\.x\.options\.shar': did you mean 'share'",
    ),
    "program's need": (
        "prepare: {x: {program: 'otreg.experiment.salad:choose', from: train}}",
        r"missing key 'prepare\.x\.options\.count'",
    ),
    "program's model": (
        "prepare: {x: {program: 'otreg.experiment.salad:score_misalignment', from: train, "
        "options: {text_words: [1, 2], speech_words: [1, 2]}}}",
        r"missing key 'prepare\.x\.model'",
    ),
    "model that nobody takes": (
        "prepare: {x: {program: subset, from: train, model: base}}",
        r"prepare\.x\.model: what is called takes no 'model'",
    ),
    "model twice": (
        "prepare: {x: {program: 'otreg.experiment.salad:score_misalignment', from: train, "
        "model: base, options: {text_words: [1, 2], speech_words: [1, 2], model: folder}}}",
        r"unknown key 'prepare\.x\.options\.model'",
    ),
    "whether towers": (
        "prepare: {x: {program: subset, from: train, towers: 'yes'}}",
        r"prepare\.x\.towers: expected true or false, received 'yes'",
    ),
    "measure's option": (
        "measures: {layers: {options: {layer: [0]}}}",
        r"'measures\.layers\.options\.layer': did you mean 'layers'",
    ),
    "measure's need": (
        "measures: {layers: {}}",
        r"missing key 'measures\.layers\.options\.layers'",
    ),
    "measure of one corpus": (
        "measures: {share: {type: topic-share, options: {topic: x}, corpora: [noise, rate]}}",
        r"measures\.share\.corpora: expected one.*received noise, rate",
    ),
    "measure": ("measures: {retreival: {}}", r"unknown measure 'retreival'"),
    "gate's arm": (
        "gates: [{name: g, kind: gate, measure: wer, corpus: all, of: otrge, bound: '< 1'}]",
        r"gate 'g': unknown arm 'otrge'; did you mean 'otreg'",
    ),
    "gate's corpus": (
        "gates: [{name: g, kind: gate, measure: wer, corpus: al, of: otreg, bound: '< 1'}]",
        r"gate 'g': unknown corpus 'al'; did you mean 'all'",
    ),
    "gate's measure": (
        "gates: [{name: g, kind: gate, measure: were, corpus: all, of: otreg, bound: '< 1'}]",
        r"gate 'g': unknown measure 'were'; did you mean 'wer'",
    ),
    "gate's bound": (
        "gates: [{name: g, kind: gate, measure: wer, corpus: all, of: otreg, bound: low}]",
        r"gate 'g': expected a bound",
    ),
    "gates": ("gates: none", r"gates: expected a list"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_found_before_anything_runs(tmp_path: Path, name: str) -> None:
    text, message = MISTAKES[name]
    with pytest.raises(ConfigError, match=rf"mine\.yaml: .*{message}"):
        load(tmp_path, f"inherits: otreg\n{text}\n")


def test_an_unknown_experiment_lists_the_shipped_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"'otrge'; did you mean 'otreg'.*shipped by name: .*otreg"
    ):
        load_experiment("otrge")


def test_corpora_run_and_arms_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing key 'corpora'"):
        load(tmp_path, "run: {inherits: miniature}\n")
    with pytest.raises(ConfigError, match=r"expected a mapping"):
        load(tmp_path, "- a\n")
