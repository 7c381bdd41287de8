"""The steps that an experiment becomes: what is shared, and between whom."""

from __future__ import annotations

from pathlib import Path

import pytest

from otreg.experiment.plan import Plan, units
from otreg.experiment.reading import load_experiment
from otreg.training.yaml_config import ConfigError

THREE_STAGES = """
corpora: {type: demo}
run:
  inherits: miniature
  stages:
    - {name: one, train: [adapter], steps: 1, batch_size: 2, learning_rate: 1e-3}
    - {name: two, train: [adapter], steps: 2, batch_size: 2, learning_rate: 1e-3}
    - {name: three, train: [adapter], steps: 3, batch_size: 2, learning_rate: 1e-3}
"""


def planned(folder: Path, text: str, *, seeds: int = 1, arms: str = "") -> tuple[Plan, dict]:
    """The plan of an experiment, and the training steps of its chosen arms by (arm, seed)."""
    path = folder / "mine.yaml"
    path.write_text(text)
    experiment = load_experiment(path)
    plan = Plan(experiment, "test")
    chosen = arms.split() or list(experiment.arms)
    trained = {(a, s): plan.evaluated(a, s)[1].steps for s in range(seeds) for a in chosen}
    return plan, trained


def test_arms_share_the_stages_in_which_they_agree_however_many(tmp_path: Path) -> None:
    text = THREE_STAGES + (
        "arms:\n"
        "  base: []\n"
        "  same: []\n"
        "  third: [stages.three.steps=4]\n"
        "  second: [stages.two.steps=4]\n"
        "  first: [stages.one.steps=4]\n"
    )
    plan, steps = planned(tmp_path, text, arms="base same third second first")
    base = steps["base", 0]
    shared = {
        arm: [ours == theirs for ours, theirs in zip(steps[arm, 0], base, strict=True)]
        for arm in ("same", "third", "second", "first")
    }
    assert shared == {
        "same": [True, True, True],
        "third": [True, True, False],
        "second": [True, False, False],
        "first": [False, False, False],
    }
    assert "base (seed 0), same (seed 0), third (seed 0)" in plan.graph.title(base[1])


def test_seeds_share_no_stage_and_all_share_towers_and_caches(tmp_path: Path) -> None:
    plan, steps = planned(tmp_path, THREE_STAGES + "arms: {base: []}", seeds=2)
    assert not set(steps["base", 0]) & set(steps["base", 1])
    kinds = [step.kind.name for step in plan.graph.steps.values()]
    assert kinds.count("corpora") == 1
    assert kinds.count("towers") == 2  # the encoder and the language model
    assert kinds.count("encoder-states") == 1 + 6  # the training's, and each evaluation corpus
    assert kinds.count("evaluations") == 2


def test_stages_from_the_first_with_lora_on_stay_together(tmp_path: Path) -> None:
    text = "inherits: otreg\nrun: {stages: {adapt: {steps: 3}}}\n"
    (tmp_path / "x.yaml").write_text(text)
    stages = load_experiment(tmp_path / "x.yaml").config("base").stages
    adapt, align = stages
    assert [[s.name for s in unit] for unit in units([adapt, align, adapt])] == [
        ["adapt"],
        ["align", "adapt"],
    ]
    assert [[s.name for s in unit] for unit in units([align, adapt])] == [["align", "adapt"]]
    assert [[s.name for s in unit] for unit in units([adapt, adapt])] == [["adapt"], ["adapt"]]


def test_paths_are_no_part_of_a_step(tmp_path: Path) -> None:
    plan, _ = planned(tmp_path, THREE_STAGES + "arms: {base: []}")
    assert str(tmp_path) not in str([step.settings for step in plan.graph.steps.values()])


def test_an_arm_can_go_on_from_another_at_the_same_seed(tmp_path: Path) -> None:
    text = THREE_STAGES + (
        "arms: {base: [], more: [model.init=base, "
        "'stages=[{name: last, train: [adapter], steps: 1, batch_size: 2, learning_rate: 1}]']}\n"
    )
    plan, steps = planned(tmp_path, text, seeds=2, arms="base more")
    for seed in (0, 1):
        assert steps["more", seed][:-1] == steps["base", seed]
        last = plan.graph.steps[steps["more", seed][-1]]
        assert last.inputs["init"].step == steps["base", seed][-1]
        assert "adapter_type" not in last.settings["run"]["model"]


def test_a_circle_of_arms_is_refused(tmp_path: Path) -> None:
    text = "inherits: otreg\narms: {a: [model.init=b], b: [model.init=a]}\n"
    with pytest.raises(ConfigError, match="a needs b needs a: a circle"):
        planned(tmp_path, text, arms="a")


CIRCLES = {
    "itself": (
        "{a: {program: subset, from: [a], options: {count: 1}}}",
        "prepare.a needs prepare.a",
    ),
    "others": (
        "{a: {program: subset, from: [train, b], options: {count: 1}}, "
        "b: {program: subset, from: [a], options: {count: 1}}}",
        "prepare.a needs prepare.b needs prepare.a",
    ),
    "an arm": (
        "{a: {program: 'otreg.experiment.salad:score_misalignment', from: [train], model: base, "
        "options: {text_words: [1, 2], speech_words: [1, 2]}}}",
        "base needs prepare.a needs base",
    ),
}


@pytest.mark.parametrize("name", CIRCLES)
def test_a_circle_of_manifests_is_refused(tmp_path: Path, name: str) -> None:
    prepare, circle = CIRCLES[name]
    text = f"{THREE_STAGES}prepare: {prepare}\narms: {{base: ['data.train=[a]']}}\n"
    with pytest.raises(ConfigError, match=f"^{circle}: a circle"):
        planned(tmp_path, text, arms="base")


def test_a_manifest_of_a_model_is_prepared_for_every_seed_others_once(tmp_path: Path) -> None:
    text = THREE_STAGES + (
        "prepare:\n"
        "  half: {program: subset, from: train, options: {share: 0.5}}\n"
        "  chosen: {program: 'otreg.experiment.salad:score_misalignment', from: half, model: base,\n"
        "           options: {text_words: [1, 2], speech_words: [1, 2]}}\n"
        "arms: {base: [], active: ['data.train=[half, chosen]']}\n"
    )
    plan, steps = planned(tmp_path, text, seeds=2, arms="active")
    prepared = [s for s in plan.graph.steps.values() if s.kind.name == "prepared"]
    assert [step.label for step in prepared] == ["half", "chosen", "chosen"]
    assert "model" not in prepared[0].inputs
    last = plan.graph.steps[steps["active", 1][0]]
    assert {"train 0", "train 1"} <= last.inputs.keys()


def test_an_arm_that_trains_the_encoder_uses_no_outputs_of_the_frozen_one(tmp_path: Path) -> None:
    text = THREE_STAGES + (
        "arms: {base: [], whole: [data.cache_encoder=false, 'stages.three.train=[adapter, audio_tower]'],\n"
        "  after: [model.init=whole]}\n"
    )
    plan, steps = planned(tmp_path, text, arms="whole after")
    for arm in ("whole", "after"):
        for identity in steps[arm, 0]:
            assert "states" not in plan.graph.steps[identity].inputs
