"""Rows to batches by each family's own processor, and the example that trains on them."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from families.base import TEXTS, waveforms
from families_at_hand import ALL, DURATIONS_S, READ, Load, steady

from otreg.data.manifest import Utterance, write_manifest
from otreg.integrations import TranscriptionCollator, UnsupportedModelError
from otreg.integrations import load as load_model
from otreg.integrations.collator import with_answers

EXAMPLE = Path(__file__).parents[2] / "examples" / "attach.py"


def rows() -> list[dict[str, Any]]:
    sounds = waveforms(*DURATIONS_S)
    return [{"audio": s, "text": t} for s, t in zip(sounds, TEXTS, strict=True)]


def test_the_answer_is_the_transcript_and_one_end_token(ready) -> None:
    family, model, processor, by_hand = ready
    with family.stand_in():
        batch = TranscriptionCollator(processor)(rows())
        prompts = TranscriptionCollator(processor).prompts([row["audio"] for row in rows()])
    labels, mask = batch["labels"], batch["attention_mask"].bool()
    for row, text in enumerate(TEXTS):
        answer = labels[row][labels[row] >= 0]
        theirs = by_hand["labels"][row]
        theirs = theirs[theirs >= 0]
        assert torch.equal(answer, theirs[: len(answer)])  # a newline may follow in the template
        assert processor.tokenizer.decode(answer[:-1]).strip() == text
        # In front of the answer stands the prompt, whole.
        real = batch["input_ids"][row][mask[row]]
        asked = prompts["input_ids"][row][prompts["attention_mask"][row].bool()]
        assert torch.equal(real, torch.cat([asked, answer]))
    assert not mask[:, :-1].logical_not().logical_and(mask[:, 1:]).any()  # padded on the right
    batch.pop("num_samples", None)
    assert model(**batch).loss.isfinite()


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", READ)
def test_the_example_trains_every_family(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same lines, but for the model's name."""
    family, folder = ALL[name], tmp_path / "model"
    folder.mkdir()
    family.save(folder)
    utterances = []
    for number, row in enumerate(rows()):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, row["audio"], 16_000)
        utterances.append(Utterance(str(number), path, row["text"], "xx"))
    write_manifest(tmp_path / "manifest.jsonl", utterances)
    # By the fixture, which has what stands for packages that have no build here, and trusts its code.
    model, processor = family.load(folder)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    monkeypatch.setattr("otreg.integrations.load", lambda _: (model, processor))
    monkeypatch.setattr(sys, "argv", ["attach.py", str(folder), str(tmp_path / "manifest.jsonl")])
    with family.stand_in():
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "'otreg':" in capsys.readouterr().out
    assert any(not torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_the_example_is_at_most_15_lines() -> None:
    code = EXAMPLE.read_text(encoding="utf-8").split('"""')[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15


@pytest.mark.parametrize("name", ["qwen2_audio", "audioflamingo3", "glmasr", "qwen3_asr"])
def test_models_load_by_name(name: str, tmp_path: Path) -> None:
    ALL[name].save(tmp_path)
    model, processor = load_model(tmp_path)
    assert type(model) is type(ALL[name].load(tmp_path)[0])
    assert processor.tokenizer is not None


def test_remote_code_runs_only_where_it_is_trusted(tmp_path: Path) -> None:
    ALL["remote_code"].save(tmp_path)
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_model(tmp_path, trust_remote_code=False)
    model, processor = load_model(tmp_path, trust_remote_code=True)
    batch = TranscriptionCollator(processor)(rows())
    assert steady(model)(**batch).loss.isfinite()


def test_masks_of_audio_are_not_taken_for_tokens() -> None:
    real = torch.tensor([[1, 1, 1], [0, 1, 1]])
    frames = torch.tensor([[True, True, False], [True, False, False]])  # as wide, and no tokens
    batch = {"input_ids": real * 5, "attention_mask": real, "input_features_mask": frames}
    found = with_answers(batch, [[7], [8, 9]], pad_token_id=0)
    assert found["input_features_mask"] is frames
    assert found["input_ids"].tolist() == [[5, 5, 5, 7], [5, 5, 8, 9]]
    assert found["labels"].tolist() == [[-100, -100, -100, 7], [-100, -100, 8, 9]]


def test_models_without_speech_are_refused(tmp_path: Path) -> None:
    from transformers import BertConfig

    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="no model that reads audio"):
        load_model(tmp_path)


def test_audio_at_another_rate_is_resampled_and_other_shapes_are_refused(load: Load) -> None:
    _, _, processor = load("qwen2_audio")
    collate = TranscriptionCollator(processor)
    sound = waveforms(1.0)[0]
    decoded = {"array": np.repeat(sound, 3), "sampling_rate": 48_000}
    found = collate([{"audio": decoded, "text": "rojo"}])
    plain = collate([{"audio": sound, "text": "rojo"}])
    assert torch.equal(found["input_ids"], plain["input_ids"])
    with pytest.raises(ValueError, match=r"row 1 must be \(samples,\) float"):
        collate([{"audio": sound, "text": "a"}, {"audio": np.stack([sound, sound]), "text": "b"}])
    with pytest.raises(ValueError, match="row 0 has no text"):
        collate([{"audio": sound, "text": ""}])


def test_the_users_own_request_stands_in_the_prompt(load: Load) -> None:
    family, _, processor = load("qwen3_asr")  # which has a request of its own
    sounds = waveforms(1.0, 0.7)
    asked = TranscriptionCollator(processor, request="Repeat after me:").prompts(sounds)
    usual = TranscriptionCollator(processor).prompts(sounds)
    decoded = processor.tokenizer.batch_decode(asked["input_ids"])
    assert all("Repeat after me:" in text for text in decoded)
    assert not any(
        "Repeat" in text for text in processor.tokenizer.batch_decode(usual["input_ids"])
    )
    placeholder = processor.tokenizer.convert_tokens_to_ids("<|audio_pad|>")
    for batch in (asked, usual):  # both are expanded to the same rows of speech
        assert (batch["input_ids"] == placeholder).sum(1).tolist() == [
            family.num_placeholders(len(sound)) for sound in sounds
        ]


def test_voxtral_with_mistrals_tokenizer_is_asked_through_its_processor() -> None:
    """That tokenizer needs mistral-common, so its processor's side is played here."""
    asked: dict[str, Any] = {}

    class VoxtralProcessor:  # known by its name, as transformers' is
        class tokenizer:
            """Without a backend_tokenizer, as Mistral's."""

        @staticmethod
        def apply_transcription_request(**options: Any) -> dict[str, Any]:
            asked.update(options)
            return {"input_ids": torch.ones(2, 3)}

    sounds = waveforms(1.0, 0.5)
    collate = TranscriptionCollator(VoxtralProcessor(), language="es", model_id="name/of-it")
    batch = collate.prompts(sounds)
    assert batch["num_samples"].tolist() == [16_000, 8_000]
    assert asked.pop("audio") == sounds
    assert asked == {
        "model_id": "name/of-it",
        "language": "es",
        "sampling_rate": 16_000,
        "format": ["wav", "wav"],
    }
