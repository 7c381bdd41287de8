"""A tiny model evaluated end to end: rows, gap, examples and plans that fit the schema."""

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "model"))
from tiny_towers import make_audio, make_tokenizer, save_audio_tower, save_language_model

from otreg.data.dataset import SpeechTextDataset
from otreg.data.manifest import Utterance, write_manifest
from otreg.evaluation.alignments import align, token_labels
from otreg.evaluation.evaluate import evaluate_model, measure_gap
from otreg.evaluation.report import write_report
from otreg.evaluation.results import environment, merge_results, read_results, write_results
from otreg.evaluation.samples import ids_digest
from otreg.model import SpeechLMForConditionalGeneration, SpeechLMProcessor
from otreg.prepare.encoder_states import build_encoder_cache


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    audio = save_audio_tower("whisper-short", folder / "audio_tower")
    text = save_language_model("qwen2", folder / "language_model")
    torch.manual_seed(0)
    model = SpeechLMForConditionalGeneration.from_towers(
        audio, text, adapter_type="conv", adapter_stack=2, short_mel=True
    )
    processor = SpeechLMProcessor.from_config(model.config, audio, text)
    utterances = []
    words = ["the cat sat", "a dog ran home", "el perro corre", "die katze schläft", "the mat"]
    for index, (samples, sentence) in enumerate(
        zip(make_audio(0.9, 1.3, 0.7, 1.1, 1.2), words, strict=True)
    ):
        path = folder / f"{index}.wav"
        soundfile.write(path, samples, 16_000)
        language = {2: "es", 3: "de"}.get(index, "en")
        utterances.append(Utterance(f"u{index}", path, sentence, language))
    return model.eval(), processor, utterances, folder


def evaluate(tiny, **options):
    model, processor, utterances, _ = tiny
    settings = dict(arm="base", seed=0, batch_size=2, max_new_tokens=8) | options
    corpora = settings.pop("corpora", {"home": utterances[:3], "away": utterances})
    return evaluate_model(model, processor, corpora, **settings)


def test_rows_are_split_by_corpus_and_language_and_know_their_domain(tiny):
    rows = evaluate(tiny, in_domain={"home"}, num_alignments=0)["rows"]
    assert [(row["corpus"], row["language"], row["domain"]) for row in rows] == [
        ("home", "en", "in"),
        ("home", "es", "in"),
        ("away", "en", "out"),
        ("away", "es", "out"),
        ("away", "de", "out"),
    ]
    assert rows[2]["num_utterances"] == 3
    assert rows[2]["num_words"] == 9
    edits = sum(rows[2][kind] for kind in ("substitutions", "deletions", "insertions"))
    assert rows[2]["wer"] == pytest.approx(edits / 9)


def test_results_go_through_json_and_into_a_report(tiny, tmp_path):
    base = evaluate(tiny, in_domain=["home"])
    other = evaluate(tiny, arm="other", in_domain=["home"])
    merged = merge_results([base, other]) | environment()
    path = write_results(merged, tmp_path / "results.json")
    assert read_results(path) == read_results(tmp_path)
    html = write_report(read_results(path), tmp_path / "report.html").read_text(encoding="utf-8")
    assert "other: transport plan" in html
    assert len(base["transcripts"]) == 3 + 4
    assert len(base["alignments"]) == 2


def test_a_manifest_and_cached_encoder_outputs_give_the_same_numbers(tiny, tmp_path):
    model, processor, utterances, folder = tiny
    write_manifest(folder / "all.jsonl", utterances)
    cache = build_encoder_cache(
        model, SpeechTextDataset(utterances, processor), tmp_path / "cache", batch_size=2
    )
    fresh = evaluate(tiny, corpora={"all": folder / "all.jsonl"})
    for given in (cache, {"all": cache}):
        cached = evaluate(tiny, corpora={"all": utterances}, encoder_cache=given)
        assert cached["rows"] == fresh["rows"]
        for name, value in fresh["gap"][0].items():
            assert cached["gap"][0][name] == pytest.approx(value, abs=1e-4), name


def test_the_encoder_cache_is_what_is_read(tiny, tmp_path):
    """Outputs of other audio in the cache change the result: nothing is encoded anew."""
    model, processor, utterances, _ = tiny
    data = SpeechTextDataset(utterances[:2], processor)
    cache = build_encoder_cache(model, data, tmp_path / "cache", batch_size=2)
    get = cache.get
    cache.get = lambda clip: (torch.zeros_like(get(clip)[0]), get(clip)[1])
    plain = evaluate(tiny, corpora={"all": utterances[:2]})["gap"][0]["norm_ratio"]
    for given in (cache, {"all": cache}):
        found = evaluate(tiny, corpora={"all": utterances[:2]}, encoder_cache=given)
        assert found["gap"][0]["norm_ratio"] != pytest.approx(plain, rel=1e-3)


def test_answers_that_do_not_end_are_counted(tiny):
    rows = evaluate(tiny, max_new_tokens=1, num_alignments=0, corpora={"all": tiny[2]})["rows"]
    assert sum(row["runaway"] for row in rows) > 0


@pytest.mark.parametrize("name", ["max_gap_utterances", "num_transcripts", "num_alignments"])
def test_counts_below_zero_are_refused(tiny, name):
    with pytest.raises(ValueError, match="of at least 0"):
        evaluate(tiny, **{name: -1})


def test_the_gap_does_not_depend_on_the_batch_size_or_leave_a_gradient(tiny):
    model, processor, utterances, _ = tiny
    one = measure_gap(model, processor, utterances, batch_size=1)
    for batch_size in (2, 3, 5):  # 2 and 3 leave a smaller last batch
        batched = measure_gap(model, processor, utterances, batch_size=batch_size)
        assert batched.keys() == one.keys()
        for name, value in one.items():
            assert batched[name] == pytest.approx(value, abs=1e-4), name
    few = measure_gap(model, processor, utterances, positions=[3, 1, 4], batch_size=2)
    assert few["num_utterances"] == 3
    assert one["num_utterances"] == 5
    assert all(parameter.grad is None for parameter in model.parameters())
    fewer = evaluate(tiny, max_gap_utterances=2, num_alignments=0)["gap"]
    assert [record["num_utterances"] for record in fewer] == [2, 2]
    assert evaluate(tiny, max_gap_utterances=0, num_alignments=0)["gap"] == []


def test_samples_hold_each_utterance_in_the_corpus_order(tiny):
    results = evaluate(
        tiny, num_alignments=0, max_gap_utterances=2, sample_measures=["wer", "coverage", "other"]
    )
    samples = {(s["corpus"], s["measure"]): s for s in results["samples"]}
    assert list(samples) == [(c, m) for c in ("home", "away") for m in ("wer", "coverage")]
    away = samples["away", "wer"]
    assert away["denominator"] == [3, 4, 3, 3, 2]  # words as they stand, languages mixed
    rows = [row for row in results["rows"] if row["corpus"] == "away"]
    errors = sum(row["wer"] * row["num_words"] for row in rows)
    assert sum(away["numerator"]) == pytest.approx(errors)
    assert away["ids_digest"] == ids_digest([f"u{index}" for index in range(5)])
    coverage = samples["away", "coverage"]
    assert coverage["ids_digest"] == ids_digest(["u0", "u2"])
    measured = next(r["coverage"] for r in results["gap"] if r["corpus"] == "away")
    assert sum(coverage["numerator"]) / 2 == pytest.approx(measured, abs=1e-5)


def test_plans_have_a_row_per_frame_and_a_label_per_target(tiny):
    model, processor, utterances, _ = tiny
    records = align(model, processor, utterances, batch_size=5)
    for record, utterance in zip(records, utterances, strict=True):
        plan, distances = np.array(record["plan"]), np.array(record["distances"])
        assert plan.shape == (len(distances), len(record["targets"]))
        assert distances.shape[1] == len(record["tokens"])
        assert "".join(record["tokens"]).replace("▁", " ") == utterance.text
        assert record["targets"][-1] == "(pad)"
        assert plan.sum() == pytest.approx(1.0, abs=1e-2)
        assert len(plan) * record["frame_s"] == pytest.approx(
            soundfile.info(utterance.audio).duration
        )


def chat(identity, *turns, audio=None, text="", language="en"):
    """A conversation: ("role", "text") or ("role", part) each."""
    messages = tuple(
        {"role": role, "content": ({"type": "text", "text": c} if isinstance(c, str) else c,)}
        for role, c in turns
    )
    return Utterance(identity, audio, text, language, messages=messages)


def written(identity, text="the dog"):
    return chat(identity, ("user", "Say it."), ("assistant", text))


def test_rows_without_speech_are_decoded_and_left_out_of_the_gap_and_the_plans(tiny):
    model, processor, utterances, _ = tiny
    silent = [written(f"t{index}") for index in range(5)]
    unheard = chat(
        "x", ("user", {"type": "audio"}), ("assistant", "a cat"), audio=utterances[0].audio
    )
    mixed = [silent[0], *utterances[:2], unheard, *silent[1:], utterances[2]]
    corpora = {"mixed": mixed, "spoken": utterances[:3], "text": silent}
    found = evaluate(tiny, corpora=corpora, num_alignments=2, sample_measures=["wer", "coverage"])
    counts = {(r["corpus"], r["language"]): r["num_utterances"] for r in found["rows"]}
    assert counts["mixed", "en"] == 8
    assert counts["text", "en"] == 5
    gap = {record.pop("corpus"): record for record in found["gap"]}
    assert gap.keys() == {"mixed", "spoken"}
    assert gap["mixed"] == pytest.approx(gap["spoken"], abs=1e-4)
    samples = {(s["corpus"], s["measure"]): s for s in found["samples"]}
    assert samples["mixed", "coverage"]["ids_digest"] == ids_digest(["u0", "u1", "u2"])
    assert ("text", "coverage") not in samples
    shown = [(record["corpus"], record["id"]) for record in found["alignments"]]
    assert shown == [("mixed", "u0"), ("mixed", "u1"), ("spoken", "u0"), ("spoken", "u1")]
    assert align(model, processor, silent) == []
    with pytest.raises(ValueError, match="expected a clip with a transcript"):
        measure_gap(model, processor, silent)


def test_each_clip_of_a_row_has_its_own_plan(tiny):
    model, processor, utterances, _ = tiny
    first, second, third = utterances[:3]
    part = {"type": "audio", "audio": second.audio, "text": second.text}
    two = chat(
        "two", ("user", {"type": "audio"}), ("user", part), audio=first.audio, text=first.text
    )
    alone = align(model, processor, utterances[:3], batch_size=1)
    records = align(model, processor, [two, third], batch_size=2)
    assert [record["id"] for record in records] == ["two", "two/1", "u2"]
    for record, expected in zip(records, alone, strict=True):
        for name in ("text", "language", "tokens", "targets", "frame_s"):
            assert record[name] == expected[name], name
        assert np.allclose(record["plan"], expected["plan"], atol=1e-3)
        assert np.allclose(record["distances"], expected["distances"], atol=1e-3)
    gap = measure_gap(model, processor, [two, third], batch_size=2)
    assert gap == pytest.approx(measure_gap(model, processor, utterances[:3]), abs=1e-4)


def test_merged_frames_keep_their_place_in_time(tiny):
    model, processor, utterances, _ = tiny
    whole = align(model, processor, utterances[:2])
    model.config.merge_threshold = -1.0  # every pair is merged
    try:
        merged = align(model, processor, utterances[:2])
    finally:
        model.config.merge_threshold = None
    for before, after in zip(whole, merged, strict=True):
        assert len(before["plan"]) == len(after["plan"])
        assert before["frame_s"] == after["frame_s"]
        assert after["distances"][0] == after["distances"][1]


def test_an_objective_without_a_plan_cannot_be_drawn(tiny):
    from otreg.objectives import CTC

    with pytest.raises(ValueError, match="with a transport plan"):
        align(*tiny[:3], [0], objective=CTC(tied=True))


def test_token_labels_spell_the_text_even_within_a_character():
    tokenizer = make_tokenizer()
    ids = tokenizer.encode("die katze 猫", add_special_tokens=False)
    labels = token_labels(tokenizer, ids)
    assert len(labels) == len(ids)
    assert "".join(labels).replace("·", "").replace("▁", " ") == "die katze 猫"


def test_a_corpus_without_a_reference_word_is_refused_before_decoding(tiny, monkeypatch):
    def decode(*_, **__):
        raise AssertionError("decoded")

    monkeypatch.setattr("otreg.evaluation.evaluate.transcribe", decode)
    _, _, utterances, _ = tiny
    wordless = [Utterance("a", utterances[0].audio, "?!", "fr"), utterances[1]]
    with pytest.raises(ValueError, match="corpus away: none of the 1 references in language 'fr'"):
        evaluate(tiny, corpora={"home": utterances[:2], "away": wordless})


def test_names_that_are_no_corpus_are_refused(tiny):
    with pytest.raises(ValueError, match="at least one corpus"):
        evaluate(tiny, corpora={})
    with pytest.raises(ValueError, match="received nowhere"):
        evaluate(tiny, in_domain={"nowhere"})
    with pytest.raises(ValueError, match="collection of names"):
        evaluate(tiny, in_domain="home")
    with pytest.raises(ValueError, match="encoder cache for every corpus"):
        evaluate(tiny, encoder_cache={})
    with pytest.raises(ValueError, match="at least 0"):
        evaluate(tiny, num_transcripts=-1)
