"""`run_demo` from end to end, at a size at which nothing is learned but everything is reached."""

import json

import pytest

from otreg.experiment.runner import DemoRecipe, run_demo
from otreg.synthetic.demo_corpora import CorporaSettings
from otreg.synthetic.towers import MiniatureSettings
from otreg.training.yaml_config import ConfigError, apply_overrides

pytest.importorskip("espeakng_loader")


@pytest.fixture(scope="module")
def recipe() -> DemoRecipe:
    """The shipped recipe, made small."""
    shipped = DemoRecipe.load()
    small = ["stages.adapt.steps=2", "stages.align.steps=2"]
    return DemoRecipe(
        CorporaSettings(8, 4, 2, 5),
        MiniatureSettings(
            hidden_size=16,
            encoder_layers=1,
            num_mels=16,
            encoder_epochs=1,
            language_model_layers=1,
            vocab_size=60,
            language_model_steps=3,
        ),
        apply_overrides(shipped.run, small),
        shipped.arms,
    )


def test_demo_runs_every_arm_and_goes_on_from_what_stands(recipe, tmp_path):
    told: list[str] = []
    results = run_demo(tmp_path, arms=["best"], recipe=recipe, progress=told.append)
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["rows"] == results["rows"]
    rows = {(r["arm"], r["corpus"], r["language"]): r for r in saved["rows"]}
    corpora = {"in-domain", "voices", "rate", "noise", "templates", "all"}
    assert rows.keys() == {
        (arm, corpus, language)
        for arm in ("base", "best")
        for corpus in corpora
        for language in ("en", "es", "de")
    }
    for (_, corpus, _), row in rows.items():
        assert row["domain"] == ("in" if corpus == "in-domain" else "out")
        assert row["num_utterances"] == 2
        assert row["num_words"] > 0
        assert row["wer"] >= 0
    assert {(g["arm"], g["corpus"]) for g in saved["gap"]} == {
        (arm, corpus) for arm in ("base", "best") for corpus in corpora
    }
    for measures in saved["gap"]:
        assert measures.keys() >= {"coverage", "nearest_token", "centroid_distance", "collapse"}
    page = (tmp_path / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "best" in page

    again: list[str] = []
    second = run_demo(tmp_path, arms=["best"], recipe=recipe, progress=again.append)
    assert second["rows"] == results["rows"]
    assert len(again) == len(told)


def test_unknown_arm_is_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown arm 'otregg'.*otreg"):
        run_demo(tmp_path, arms=["otregg"])


def test_every_shipped_arm_is_a_valid_configuration():
    from otreg.training.config import config_from_dict

    recipe = DemoRecipe.load()
    assert list(recipe.arms) == ["base", "ctc", "otreg-paper", "otreg", "best"]
    steps = set()
    for overrides in recipe.arms.values():
        config = config_from_dict(apply_overrides(recipe.run, overrides))
        steps.add(tuple(stage.steps for stage in config.stages))
    assert len(steps) == 1  # no arm trains longer than another
