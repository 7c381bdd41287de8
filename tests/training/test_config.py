"""The configuration: YAML, overrides, and errors that name the key."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest

from otreg.training.config import (
    ConfigError,
    config_from_dict,
    config_to_dict,
    load_config,
    save_config,
)
from otreg.training.yaml_config import apply_overrides, dump_yaml, parse_yaml

BASE = """
seed: 3
model: {audio_tower: tower, language_model: lm, lora: {r: 4}}
data: {train: train.jsonl}
stages:
  - name: connect
    train: [adapter]
    steps: 5
    batch_size: 2
    learning_rate: 3e-3
  - name: align
    train: [adapter, lora]
    objectives: {otreg: {weight: 0.3, warmup_fraction: 0.1}}
    model: {snap: 0.5, drop_threshold: null}
    epochs: 1
    max_tokens: 500
    learning_rate: "2e-6"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "run.yaml"
    file.write_text(BASE)
    return file


def data() -> dict:
    return copy.deepcopy(parse_yaml(BASE))


def test_a_file_becomes_nested_frozen_dataclasses(path: Path) -> None:
    config = load_config(path)
    assert (config.seed, config.model.lora.r, config.data.train) == (3, 4, [Path("train.jsonl")])
    assert config.stages[0].steps == 5
    assert config.stages[1].model == {"snap": 0.5, "drop_threshold": None}
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 4


def test_exponents_without_a_point_are_numbers_quoted_or_not(path: Path) -> None:
    config = load_config(path, ["stages.0.learning_rate=2e-6"])
    assert config.stages[0].learning_rate == config.stages[1].learning_rate == 2e-6


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-6", 2e-6),
        ("-1E+3", -1000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("7", 7),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("007", "007"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("2e", "2e"),
    ],
)
def test_yaml_scalars_mean_what_they_look_like(text: str, value: object) -> None:
    read = parse_yaml(text)
    assert read == value
    assert type(read) is type(value)
    assert parse_yaml(dump_yaml({"x": read})) == {"x": value}


@pytest.mark.parametrize("text", ["2e-6", "no", "007", "1:30", "null", "true", "", "~", "1_0"])
def test_strings_that_look_like_something_else_survive_a_round_trip(text: str) -> None:
    assert parse_yaml(dump_yaml({"x": text})) == {"x": text}


def test_a_repeated_key_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"x\.yaml: line 2: the key 'seed' stands twice"):
        parse_yaml("seed: 1\nseed: 2\n", source="x.yaml")


def test_broken_yaml_is_one_clear_line() -> None:
    with pytest.raises(ConfigError, match=r"^x\.yaml: not valid YAML: [^\n]*$"):
        parse_yaml("a: [1,\nb: {", source="x.yaml")


def test_yaml_tags_cannot_construct_objects() -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse_yaml("!!python/object/apply:os.system ['true']")


def test_overrides_reach_into_lists_by_index_and_by_name(path: Path) -> None:
    config = load_config(
        path,
        [
            "stages.1.objectives.otreg.weight=0",
            "stages.connect.steps=9",
            "model.audio_tower=other",
            "data.train=[a.jsonl, b.jsonl]",
            "seed=11",
            "stages.0.objectives.cross_entropy.weight=2",
        ],
    )
    assert config.stages[1].objectives["otreg"].weight == 0
    assert config.stages[1].objectives["otreg"].warmup_fraction == 0.1
    assert list(config.stages[1].active()) == ["cross_entropy"]
    assert config.stages[0].steps == 9
    assert config.stages[0].active()["cross_entropy"].weight == 2
    assert config.model.audio_tower == "other"
    assert config.data.train == [Path("a.jsonl"), Path("b.jsonl")]
    assert config.seed == 11


def test_overrides_leave_the_given_data_alone() -> None:
    before = data()
    apply_overrides(before, ["stages.0.steps=1", "model.lora=null"])
    assert before == data()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "expected key=value"),
        ("=3", "expected key=value"),
        ("stages.2.steps=1", "the list has 2 items"),
        ("stages.alin.steps=1", "did you mean 'align'"),
        ("seed.x=1", "'seed' is 3, which holds no further keys"),
        ("modle.audio_tower=x", "unknown key 'modle': did you mean 'model'"),
        ("model.audio_towr=x", r"'model\.audio_towr': did you mean 'audio_tower'"),
        ("model.lora.alhpa=3", r"'model\.lora\.alhpa': did you mean 'alpha'"),
        ("stages.0.lerning_rate=1", r"'stages\.0\.lerning_rate': did you mean 'learning_rate'"),
        (
            "stages.1.objectives.otreg.wieght=1",
            r"'stages\.1\.objectives\.otreg\.wieght': did you mean 'weight'",
        ),
        ("stages.1.objectives.otrge.weight=1", "unknown objective 'otrge'; did you mean 'otreg'"),
        ("stages.1.model.snpa=1", r"unknown key 'model.snpa': did you mean 'snap'"),
        ("stages.0.trainer.bf61=true", r"unknown key 'trainer.bf61': did you mean 'bf16'"),
        (
            "stages.0.trainer.learning_rate=1",
            "trainer.learning_rate cannot be set here: give the stage's own",
        ),
        ("stages.0.train=[adaptor]", "cannot train 'adaptor'; did you mean 'adapter'"),
        ("stages.0.train=[]", r"stages\.0\.train"),
        ("stages.0.steps=0", r"stages\.0\.steps: input should be greater than or equal to 1"),
        ("stages.0.steps=true", r"stages\.0\.steps: input should be a valid integer"),
        ("stages.0.steps=2.5", r"stages\.0\.steps: .*valid integer.*received 2\.5"),
        ("stages.0.epochs=1", "either steps or epochs"),
        ("stages.0.max_tokens=1", "either batch_size or max_tokens"),
        ("stages.0.batch_size=null", "either batch_size or max_tokens"),
        ("stages.0.learning_rate=fast", "expected a number, received 'fast'"),
        ("stages.0.learning_rate=true", "expected a number, received True"),
        ("stages.0.learning_rate=.nan", "expected a finite number"),
        ("stages.0.learning_rate=0", "greater than 0"),
        (
            "stages.0.objectives.otreg.weight=0",
            "no objective 'otreg' to switch off",
        ),
        ("stages.align.objectives.ctc.weight=0", "no objective 'ctc' to switch off; known"),
        ("stages.1.objectives.loss={weight: 1, type: otreg}", "name 'loss': the log has 'loss'"),
        ("stages.1.objectives.ce={weight: 1, type: otreg}", "name 'ce': the log has 'ce' already"),
        ("stages.1.objectives.step={weight: 1, type: otreg}", "the log has 'step' already"),
        ("stages.1.objectives.eval_x={weight: 1, type: otreg}", "'eval_' says .*use another"),
        ("stages.1.objectives={a.b: {weight: 1, type: ctc}}", r"name 'a\.b': .*use another"),
        ("stages.1.objectives={otreg/cost: {weight: 1, type: ctc}}", "'/' parts an objective"),
        ("stages.1.objectives.values={weight: 1, type: ctc}", "torch's modules have 'values'"),
        ("stages.1.objectives.otreg.weight=-1", "greater than or equal to 0"),
        ("stages.1.objectives.otreg.weight=null", r"otreg\.weight"),
        ("stages.0.objectives.cross_entropy.weight=0", "every objective has weight 0"),
        ("stages.0.name=align", "the name 'align' stands twice"),
        ("stages.0.name=a/b", r"stages\.0\.name"),
        ("model.lora=null", "model.lora is missing"),
        ("data.cache_encoder=1", r"data\.cache_encoder: input should be a valid boolean"),
        ("seed=-1", "seed: input should be greater than or equal to 0"),
        ("stages=[]", "stages"),
        ("stages=null", "stages"),
    ],
)
def test_a_wrong_override_is_refused_naming_the_key(
    path: Path, override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path, [override])
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named() -> None:
    wrong = data()
    del wrong["stages"][0]["learning_rate"]
    with pytest.raises(ConfigError, match=r"missing key 'stages\.0\.learning_rate'"):
        config_from_dict(wrong)
    with pytest.raises(ConfigError, match="missing key 'stages'"):
        config_from_dict({})


def test_every_wrong_key_is_reported_at_once() -> None:
    wrong = data() | {"sede": 1}
    wrong["stages"][0]["steps"] = "many"
    with pytest.raises(ConfigError, match=r"(?=.*sede)(?=.*stages\.0\.steps)"):
        config_from_dict(wrong)


@pytest.mark.parametrize("text", ["", "- a\n", "just words"])
def test_a_document_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="expected a mapping"):
        load_config(file)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such configuration file"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load_config(tmp_path)


def test_the_resolved_configuration_reads_back_equal(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    save_config(config, tmp_path / "resolved.yaml")
    assert load_config(tmp_path / "resolved.yaml") == config
    resolved = config_to_dict(config)
    assert resolved["stages"][0]["weight_decay"] == 0.0
    assert resolved["data"]["train"] == ["train.jsonl"]


def test_training_the_encoder_and_caching_it_conflict(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cache_encoder needs a frozen encoder"):
        load_config(path, ["data.cache_encoder=true", "stages.0.train=[audio_tower]"])


def test_an_adapter_may_have_no_hidden_layer(path: Path) -> None:
    assert load_config(path, ["model.adapter_layers=0"]).model.adapter_layers == 0
    with pytest.raises(ConfigError, match="adapter_layers"):
        load_config(path, ["model.adapter_layers=-1"])


def test_an_objective_of_ones_own_needs_no_registration(path: Path) -> None:
    config = load_config(
        path, ["stages.1.objectives.mine={weight: 1, type: 'some.module:Objective'}"]
    )
    assert config.stages[1].active()["mine"].type == "some.module:Objective"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.audio_tower=null", "model.audio_tower is missing"),
        ("model.language_model=null", "model.language_model is missing"),
        ("model.init=run", "model.audio_tower cannot change the model"),
        ("data.train=[]", "data.train is missing"),
        ("data.train=none.jsonl", "no such manifest: 'none.jsonl'"),
        ("data.root=nowhere", "data.root: no such folder: 'nowhere'"),
    ],
)
def test_what_is_missing_is_said_before_anything_loads(
    path: Path, override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(path, [override]).check_ready()
