"""Models of others in our own programs: data sets, transcription, evaluation, training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from families.base import TEXTS, waveforms
from families_at_hand import DURATIONS_S, READ

from otreg.data import AudioError, SpeechTextCollator, SpeechTextDataset
from otreg.data.manifest import Utterance
from otreg.evaluation.evaluate import evaluate_model
from otreg.forwards import port_of, run_forwards
from otreg.integrations import ForeignPort, TranscriptionCollator
from otreg.integrations.processor import ForeignProcessor
from otreg.model.features import longest_audio_s
from otreg.model.generation import decode, transcribe
from otreg.objectives import OTReg


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    folder = tmp_path_factory.mktemp("speech")
    found = []
    for number, sound in enumerate(waveforms(*DURATIONS_S)):
        path = folder / f"{number}.wav"
        soundfile.write(path, sound, 16_000, subtype="FLOAT")
        found.append(Utterance(str(number), path, TEXTS[number], "es"))
    return found


@pytest.fixture(params=READ)
def foreign(request: Any, load: Any) -> Any:
    """A family, its model in evaluation mode, and its processor as ours."""
    family, model, processor = load(request.param)
    with family.stand_in():
        yield (
            family,
            model.eval(),
            ForeignProcessor(ForeignPort(model, processor=processor), processor),
        )


def test_our_programs_read_every_family(foreign: Any, recordings: list[Utterance]) -> None:
    """Transcription, gap and plans by the functions that the commands call."""
    _, model, processor = foreign
    results = evaluate_model(
        model,
        processor,
        {"test": recordings},
        arm="foreign",
        seed=0,
        batch_size=2,
        max_new_tokens=4,
        sample_measures=("wer", "centroid"),
    )
    (row,) = results["rows"]
    assert row["num_utterances"] == 4
    assert row["num_words"] == sum(len(text.split()) for text in TEXTS)
    assert len(results["transcripts"]) == 4
    (gap,) = results["gap"]
    assert gap["num_utterances"] == 4
    plan = results["alignments"][0]
    frames = len(plan["plan"])
    assert plan["frame_s"] * frames == pytest.approx(DURATIONS_S[0], abs=1e-4)
    assert np.sum(plan["plan"]) == pytest.approx(1, abs=0.02)
    assert "".join(plan["tokens"]).replace("▁", " ").strip() == TEXTS[0]


def test_what_is_decoded_is_what_the_model_generates(
    foreign: Any, recordings: list[Utterance]
) -> None:
    _, model, processor = foreign
    asked = TranscriptionCollator(processor.processor)
    expected = []
    for sound in waveforms(*DURATIONS_S):
        inputs = asked.prompts([sound])
        inputs.pop("num_samples", None)
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=5, do_sample=False, num_beams=1)
        expected.append(processor.decode(ids[0, inputs["input_ids"].shape[1] :]).strip())
    # One by one, so that what padding does to a family's encoder is left out.
    done = transcribe(model, processor, recordings, batch_size=1, max_new_tokens=5)
    assert [result.hypothesis for result in done] == expected
    assert [result.reference for result in done] == list(TEXTS)
    several = decode(model, processor, recordings[:1], batch_size=1, max_new_tokens=5)
    assert several[0][0].text == expected[0]
    assert several[0][0].log_prob < 0


def test_audio_whose_end_would_be_left_out_is_refused(load: Any, tmp_path: Path) -> None:
    """Qwen2-Audio's processor cuts in silence (the tiny one behind 4 s); Voxtral's makes windows."""
    sound = waveforms(21.0)[0]
    path = tmp_path / "long.wav"
    soundfile.write(path, sound, 16_000)
    rows = [Utterance("long", path, "rojo", "es")]
    found = {}
    for name in ("qwen2_audio", "voxtral"):
        family, model, processor = load(name)
        with family.stand_in():
            ours = ForeignProcessor(ForeignPort(model, processor=processor), processor)
            found[name] = SpeechTextDataset(rows, ours)
    assert len(found["voxtral"][0]["input_features"][0]) == len(sound)
    with pytest.raises(
        AudioError, match=r"long\.wav: it holds 21\.0 s.*leaves out what is behind 4 s"
    ):
        found["qwen2_audio"][0]


def test_rows_that_are_no_transcription_are_refused(load: Any, recordings: list[Utterance]) -> None:
    _, model, processor = load("qwen2_audio")
    ours = ForeignProcessor(ForeignPort(model, processor=processor), processor)
    said = {"user": "Hi", "assistant": "Hello"}
    turns = [{"role": r, "content": [{"type": "text", "text": t}]} for r, t in said.items()]
    chat = SpeechTextDataset([Utterance("chat", None, messages=tuple(turns))], ours)
    with pytest.raises(ValueError, match=r"chat.* is no transcription"):
        SpeechTextCollator(ours)([chat[0]])
    silent = SpeechTextDataset([replace(recordings[0], text="")], ours)
    with pytest.raises(ValueError, match="nothing to train on"):
        SpeechTextCollator(ours)([silent[0]])
    with pytest.raises(ValueError, match="encoder outputs"):
        ours.num_speech_frames_from_encoder(3)


def test_lengths_are_those_of_the_rows(foreign: Any, recordings: list[Utterance]) -> None:
    """By which a token budget is kept; nothing is decoded for them."""
    _, _, processor = foreign
    dataset = SpeechTextDataset(recordings, processor)
    collate = SpeechTextCollator(processor)
    alone = [collate([dataset[row]])["input_ids"].shape[1] for row in range(4)]
    assert dataset.lengths() == alone


def test_views_are_of_the_port(load: Any, recordings: list[Utterance]) -> None:
    """What objectives see of a batch of our collator is what attach() shows them."""
    _, model, processor = load("qwen2_audio")
    ours = ForeignProcessor(ForeignPort(model, processor=processor), processor)
    dataset = SpeechTextDataset(recordings, ours)
    assert port_of(model, ours) is ours.port
    batch = ours.port.completed(SpeechTextCollator(ours)([dataset[0], dataset[1]]))
    pair = run_forwards(ours.port, batch).pair()
    assert (
        pair.token_ids[0][pair.text_mask[0]].tolist() == processor.tokenizer(TEXTS[0])["input_ids"]
    )
    assert torch.isfinite(OTReg()(pair).loss).all()


def test_how_much_a_processor_hears_is_found_by_trying(load: Any) -> None:
    longest = {}
    for name in ("qwen2_audio", "voxtral", "qwen3_asr"):
        family, model, processor = load(name)
        with family.stand_in():
            ours = ForeignProcessor(ForeignPort(model, processor=processor), processor)
            longest[name] = longest_audio_s(ours)
    assert longest["qwen2_audio"] == 4.0  # the tiny extractor's n_samples are 64000
    assert longest["voxtral"] is None
