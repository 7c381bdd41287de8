"""`inherits:` in configurations, and the recipes that are shipped in the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from otreg.training.config import ConfigError, config_to_dict, load_config, save_config
from otreg.training.inheritance import RECIPES, find_configuration, merge, read_configuration

SHIPPED = ["digits", "miniature", "paper"]
PARENT = """
seed: 3
model: {adapter_stack: 2, lora: {r: 4, alpha: 8}}
data: {train: [a.jsonl, b.jsonl]}
stages:
  - {name: connect, train: [adapter], steps: 5, batch_size: 2, learning_rate: 3e-3}
  - {name: align, train: [adapter, lora], steps: 7, batch_size: 2, learning_rate: 1e-3}
"""


def write(folder: Path, **files: str) -> Path:
    """Write NAME.yaml files; returns the path of the last."""
    for name, text in files.items():
        path = folder / f"{name}.yaml"
        path.write_text(text)
    return path


def test_mappings_merge_and_lists_and_scalars_are_replaced(tmp_path: Path) -> None:
    child = "inherits: parent.yaml\nseed: 4\nmodel: {lora: {r: 9}}\ndata: {train: [c.jsonl]}\n"
    config = load_config(write(tmp_path, parent=PARENT, child=child))
    assert (config.seed, config.model.adapter_stack) == (4, 2)
    assert (config.model.lora.r, config.model.lora.alpha) == (9, 8)
    assert config.data.train == [Path("c.jsonl")]
    assert [stage.steps for stage in config.stages] == [5, 7]


def test_inherited_stages_are_changed_by_name_and_replaced_by_a_list(tmp_path: Path) -> None:
    by_name = "inherits: parent.yaml\nstages: {align: {objectives: {otreg: {weight: 1}}, steps: 9}}"
    config = load_config(write(tmp_path, parent=PARENT, child=by_name))
    assert [stage.name for stage in config.stages] == ["connect", "align"]
    assert (config.stages[1].steps, config.stages[1].learning_rate) == (9, 1e-3)
    assert config.stages[1].objectives["otreg"].weight == 1
    whole = (
        "inherits: parent.yaml\n"
        "stages: [{name: one, train: [adapter], steps: 1, batch_size: 1, learning_rate: 1}]"
    )
    config = load_config(write(tmp_path, child=whole))
    assert [stage.name for stage in config.stages] == ["one"]
    wrong = "inherits: parent.yaml\nstages: {algin: {steps: 9}}"
    with pytest.raises(ConfigError, match=r"child\.yaml: stages: no item 'algin'.*'align'"):
        load_config(write(tmp_path, child=wrong))


def test_null_takes_back_what_is_inherited(tmp_path: Path) -> None:
    child = "inherits: parent.yaml\nmodel: {adapter_stack: null}\ndata: null\n"
    data = read_configuration(write(tmp_path, parent=PARENT, child=child), RECIPES)
    assert data["model"] == {"adapter_stack": None, "lora": {"r": 4, "alpha": 8}}
    assert data["data"] is None


def test_merging_changes_neither_argument() -> None:
    parent = {"a": {"b": [1]}, "stages": [{"name": "x", "steps": 1}]}
    changes = {"a": {"c": 2}, "stages": {"x": {"steps": 3}}}
    assert merge(parent, changes) == {
        "a": {"b": [1], "c": 2},
        "stages": [{"name": "x", "steps": 3}],
    }
    assert parent == {"a": {"b": [1]}, "stages": [{"name": "x", "steps": 1}]}
    assert changes == {"a": {"c": 2}, "stages": {"x": {"steps": 3}}}


def test_paths_are_relative_to_the_file_that_inherits(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path, parent=PARENT, middle="inherits: parent.yaml\nseed: 5\n")
    child = write(tmp_path / "deep", child="inherits: ../middle.yaml\n")
    assert load_config(child).seed == 5


def test_a_circle_is_refused_and_named(tmp_path: Path) -> None:
    path = write(tmp_path, a="inherits: b.yaml\n", b="inherits: a.yaml\n")
    with pytest.raises(
        ConfigError, match=r"b\.yaml inherits .*a\.yaml inherits .*b\.yaml: a circle"
    ):
        load_config(path)


def test_overrides_come_after_what_is_inherited(tmp_path: Path) -> None:
    path = write(tmp_path, parent=PARENT, child="inherits: parent.yaml\nseed: 4\n")
    config = load_config(path, ["stages.align.steps=2", "seed=6"])
    assert (config.seed, config.stages[1].steps) == (6, 2)


def test_the_saved_configuration_inherits_nothing(tmp_path: Path) -> None:
    config = load_config("digits")
    save_config(config, tmp_path / "resolved.yaml")
    assert "inherits" not in (tmp_path / "resolved.yaml").read_text()
    assert load_config(tmp_path / "resolved.yaml") == config


def test_digits_is_the_miniature_recipe_with_otreg() -> None:
    digits, miniature = (config_to_dict(load_config(name)) for name in ("digits", "miniature"))
    for stage in digits["stages"]:
        assert stage.pop("objectives")["otreg"]["weight"] == 0.3
    for stage in miniature["stages"]:
        assert stage.pop("objectives") == {}
    assert digits["stages"][1].pop("steps") == 300
    assert miniature["stages"][1].pop("steps") == 320
    assert digits == miniature


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("digist", r"inherits: no such configuration file: 'digist'; did you mean 'digits'\?"),
        ("none.yaml", r"shipped by name: digits, miniature, paper"),
        ("[a, b]", r"inherits: expected the name .* received \['a', 'b'\]"),
        ("list.yaml", r"holds no mapping but list"),
    ],
)
def test_a_wrong_parent_is_refused(tmp_path: Path, value: str, message: str) -> None:
    path = write(tmp_path, list="- a\n", child=f"inherits: {value}\n")
    with pytest.raises(ConfigError, match=rf"child\.yaml: .*{message}"):
        load_config(path)


def test_every_shipped_recipe_is_known_by_name_and_a_file_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sorted(file.stem for file in RECIPES.glob("*.yaml")) == SHIPPED
    for name in SHIPPED:
        assert load_config(name).stages
    with pytest.raises(ConfigError, match=r"'papr'; did you mean 'paper'\? \(shipped by name: dig"):
        load_config("papr")
    (tmp_path / "digits").mkdir()
    assert find_configuration("digits", RECIPES) == RECIPES / "digits.yaml"
    (tmp_path / "paper").write_text(PARENT)
    assert load_config("paper").seed == 3


def test_train_finds_a_shipped_recipe_outside_a_checkout(tmp_path: Path) -> None:
    code = "import sys; from otreg.cli import main; sys.exit(main(sys.argv[1:]))"
    run = subprocess.run(
        [sys.executable, "-c", code, "train", "digits", "--out", "r"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert "model.audio_tower is missing" in run.stderr


def test_configs_are_links_to_the_shipped_recipes() -> None:
    folder = Path(__file__).parents[2] / "configs"
    for name in SHIPPED:
        link = folder / f"{name}.yaml"
        assert link.is_symlink()
        assert not link.readlink().is_absolute()
        assert link.resolve() == (RECIPES / f"{name}.yaml").resolve()


def test_a_section_may_inherit_from_a_folder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    write(tmp_path / "recipes", small="seed: 3\ndata: {cache_encoder: true}\n")
    path = write(tmp_path, experiment="run: {inherits: small, seed: 4}\narms: [base]\n")
    found = read_configuration(path, tmp_path, sections={"run": tmp_path / "recipes"})
    assert found == {"run": {"seed": 4, "data": {"cache_encoder": True}}, "arms": ["base"]}
    plain = read_configuration(path, tmp_path)  # no section: data as it stands
    assert plain["run"] == {"inherits": "small", "seed": 4}
