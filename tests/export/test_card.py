"""The model card says what the run says, and the Hub can read it."""

import json
import re
import shutil

import pytest
import yaml
from huggingface_hub import ModelCard

import otreg
from otreg.export import export_model
from otreg.export.card import model_card
from otreg.export.facts import DataFacts, RunFacts, data_facts, run_facts
from otreg.model import SpeechLMConfig


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    return export_model(run, tmp_path_factory.mktemp("card") / "model", licence="cc-by-4.0")


@pytest.fixture(scope="module")
def card(exported):
    return ModelCard.load(exported / "README.md")


def section(card, title):
    return re.search(rf"## {title}\n\n(.*?)(?=\n## |\Z)", card.text, re.DOTALL).group(1)


def rows(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def test_the_metadata_is_what_the_hub_reads(card, run):
    data = card.data
    assert (data.license, data.language, data.library_name) == ("cc-by-4.0", ["en"], "transformers")
    assert data.pipeline_tag == "any-to-any"
    assert {"otreg", "automatic-speech-recognition"} <= set(data.tags)
    results = json.loads((run / "results.json").read_text())["rows"]
    told = {(one.dataset_type, one.metric_type): one.metric_value for one in data.eval_results}
    assert told == {(row["corpus"], "wer"): round(100 * row["wer"], 2) for row in results}
    assert all("whisper-no-spelling/transformers-" in one.metric_name for one in data.eval_results)
    assert data.base_model is None  # folders of this machine are no models of the Hub


def test_the_table_of_error_rates_has_their_intervals_and_normaliser(card, run):
    text = section(card, "Evaluation")
    results = json.loads((run / "results.json").read_text())["rows"]
    assert len(rows(text)) == len(results) == 2
    for shown, row in zip(rows(text), results, strict=True):
        assert shown["corpus"] == row["corpus"]
        assert shown["WER %"] == f"{100 * row['wer']:.1f}"
        assert shown["95 %"] == f"{100 * row['wer_low']:.1f}–{100 * row['wer_high']:.1f}"
    assert f"normaliser {results[0]['normalizer']}" in text


def test_the_card_tells_the_data_and_the_stages(card, run):
    (data,) = rows(section(card, "Training data"))
    lines = (run.parents[1] / "digits/manifest.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    seconds = sum(0.5 + 0.1 * len(text.split()) for text in texts)  # as save_corpus makes them
    assert (data["manifest"], data["rows"], data["languages"]) == ("digits", "8", "en")
    assert float(data["hours"]) == pytest.approx(seconds / 3600, rel=0.005)
    align, tune = rows(section(card, "Training"))
    assert align["objectives, by weight"] == "cross_entropy 1; otreg 0.3 (vocabulary=all)"
    assert (align["length"], align["trains"]) == ("2 steps of 4 rows", "adapter")
    assert (tune["length"], tune["trains"]) == ("2 steps of 4 rows × 2", "adapter, lora")
    assert "Seed 1." in section(card, "Training")
    encoder, adapter, language_model = rows(section(card, "Parts"))
    assert (encoder["kind"], encoder["started from"]) == ("whisper", "audio_tower")
    assert adapter["kind"] == "stack_mlp, 3 frames each"
    assert (language_model["kind"], language_model["started from"]) == ("qwen2", "language_model")
    assert f"otreg/) {otreg.__version__}." in card.text


def test_a_missing_licence_is_said_to_be_missing(run, tmp_path):
    card = ModelCard.load(export_model(run, tmp_path / "out") / "README.md")
    assert card.data.license is None
    assert "No licence was named" in section(card, "Licence")


def test_what_is_not_at_hand_is_said_to_be_missing(tmp_path, run):
    assert data_facts(tmp_path / "gone.jsonl") == DataFacts("gone")
    manifest = shutil.copytree(run.parents[1] / "digits", tmp_path / "moved") / "manifest.jsonl"
    (tmp_path / "moved/u0.wav").write_bytes(b"RIFF")
    facts = data_facts(manifest)
    assert (facts.num_rows, facts.hours, facts.languages) == (8, None, ("en",))
    told = RunFacts("m", run_facts(run).config, (DataFacts("gone"), facts))
    (tmp_path / "moved/u0.wav").unlink()
    assert data_facts(manifest) == DataFacts("moved")
    text = model_card(SpeechLMConfig(), told, licence=None, packages=["torch"])
    assert "| gone | not at hand when this card was written |" in text
    assert "| 8 | not all audio at hand | en |" in text
    assert "Not evaluated yet" in text


def test_a_model_folder_without_its_run_has_a_card(run, tmp_path):
    card = ModelCard.load(export_model(run / "model", tmp_path / "out") / "README.md")
    assert section(card, "Training data") == "Not known: the model was exported without its run.\n"
    assert "Not evaluated yet" in section(card, "Evaluation")


def test_base_models_of_the_hub_are_named_also_behind_an_earlier_run(run, tmp_path):
    earlier, later = tmp_path / "earlier", tmp_path / "later"
    for folder, model in (
        (earlier, {"audio_tower": "openai/whisper-tiny", "language_model": "Qwen/Qwen2.5-0.5B"}),
        (later, {"init": str(earlier)}),
    ):
        folder.mkdir()
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["model"] = model | {"lora": {"r": 2}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    facts = run_facts(later)
    expected = {"speech encoder": "openai/whisper-tiny", "language model": "Qwen/Qwen2.5-0.5B"}
    assert facts.base_models == expected
    (tmp_path / "README.md").write_text(
        model_card(SpeechLMConfig(), facts, licence="mit", packages=["torch"])
    )
    assert ModelCard.load(tmp_path / "README.md").data.base_model == list(expected.values())


def test_results_of_several_models_are_refused(run, tmp_path):
    results = json.loads((run / "results.json").read_text())
    results["rows"] += [row | {"arm": "another"} for row in results["rows"]]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    with pytest.raises(ValueError, match="results of one model, received those of another seed 1"):
        run_facts(run, results=path)


def test_a_corpus_name_cannot_break_the_card(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    results = json.loads((run / "results.json").read_text())
    name = "a|b\n---\n<b>: {x"
    results["rows"] = [results["rows"][0] | {"corpus": name}]
    (copy / "results.json").write_text(json.dumps(results))
    text = model_card(SpeechLMConfig(), run_facts(copy), licence="mit", packages=["torch"])
    (tmp_path / "README.md").write_text(text)
    card = ModelCard.load(tmp_path / "README.md")
    assert [one.dataset_type for one in card.data.eval_results] == [name]
    assert "| a\\|b --- &lt;b>: {x |" in card.text
