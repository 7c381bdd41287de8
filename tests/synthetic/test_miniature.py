"""`build_miniature`: tiny towers from any manifest, in Hugging Face's format."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from otreg.data.manifest import Utterance, write_manifest
from otreg.model import SpeechLMForConditionalGeneration, SpeechLMProcessor
from otreg.model.towers import load_audio_tower
from otreg.synthetic.examples import Exchange, draw_batches, write_exchanges
from otreg.synthetic.language_model import give_pad_a_vector, train_tokenizer
from otreg.synthetic.towers import MiniatureSettings, build_miniature, build_tower

TINY = MiniatureSettings(
    hidden_size=16,
    encoder_layers=1,
    num_mels=16,
    encoder_epochs=1,
    language_model_layers=1,
    vocab_size=40,
    language_model_steps=6,
    encoder_batch_size=4,
    language_model_batch_size=4,
)
WORDS = ["rojo", "azul", "grün", "weiß", "schwarz"]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("speech")
    rng = np.random.default_rng(0)
    utterances = []
    for number in range(8):
        path = folder / f"{number}.flac"
        soundfile.write(path, 0.1 * rng.standard_normal(8000 * (1 + number % 3)), 8000)
        text = " ".join(rng.choice(WORDS, 1 + number % 3))
        utterances.append(Utterance(str(number), path, text, "xx"))
    write_manifest(folder / "manifest.jsonl", utterances)
    return folder / "manifest.jsonl"


@pytest.fixture(scope="module")
def towers(manifest, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("towers")
    return build_miniature([manifest], out, settings=TINY, num_processes=1)


def test_towers_join_into_a_speech_language_model(towers):
    model = SpeechLMForConditionalGeneration.from_towers(
        towers / "audio_tower", towers / "language_model", adapter_type="conv"
    )
    assert model.config.short_mel  # the encoder was trained at true lengths, and says so
    processor = SpeechLMProcessor.from_config(
        model.config, towers / "audio_tower", towers / "language_model"
    )
    batch = processor([np.zeros(16000, np.float32)], ["rojo azul"])
    assert torch.isfinite(model(**batch).loss)
    ids = processor([np.zeros(16000, np.float32)])["input_ids"][0]
    written = ids[ids != processor.audio_token_id].tolist()
    names = processor.tokenizer.convert_ids_to_tokens(written)
    assert names == ["<bos>", "<asr>"]


def test_the_tokenizer_comes_back_as_it_was_saved(towers):
    tokenizer = AutoTokenizer.from_pretrained(towers / "language_model")
    text = "weiß schwarz rojo"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_the_same_seed_gives_the_same_towers(manifest, towers, tmp_path):
    again = build_miniature([manifest], tmp_path, settings=TINY, num_processes=1)
    for load, name in (
        (load_audio_tower, "audio_tower"),
        (AutoModelForCausalLM.from_pretrained, "language_model"),
    ):
        first, second = load(towers / name).state_dict(), load(again / name).state_dict()
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_pad_gets_a_direction_of_its_own_at_the_norm_of_a_token():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=12,
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            pad_token_id=3,
        )
    )
    give_pad_a_vector(model, 3)
    table = model.get_input_embeddings().weight.detach()
    others = table[torch.arange(12) != 3]
    cosine = torch.nn.functional.cosine_similarity(others, table[3][None])
    assert cosine.abs().max() < 0.5
    assert table[3].norm() == pytest.approx(float(others.norm(dim=1).median()), rel=1e-4)


def test_language_model_examples_supervise_the_transcript_alone():
    sentences = ["rojo azul", "azul rojo rojo", "schwarz"]
    tokenizer = train_tokenizer(sentences, 40)
    batches = draw_batches(sentences, tokenizer, TINY, seed=0)
    assert len(batches) == TINY.language_model_steps
    asr, eos = tokenizer.get_vocab()["<asr>"], tokenizer.get_vocab()["<eos>"]
    copies = 0
    for tokens, prompt in (example for batch in batches for example in batch):
        assert tokens[0] == tokenizer.bos_token_id
        assert tokens[-1] == eos
        if asr in tokens:
            assert tokens.index(asr) == prompt - 1
            copies += tokens[1 : prompt - 1] == tokens[prompt:-1]
        else:
            assert prompt == 1
    assert copies > 0


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 2])
def test_progress_is_told_of_every_step_of_both_towers(manifest, tmp_path, num_processes):
    told: dict[str, list[int]] = {}

    def progress(name: str, done: int, total: int) -> None:
        assert total == {"language_model": 6, "audio_tower": 2}[name]
        told.setdefault(name, []).append(done)

    build_miniature(
        [manifest], tmp_path, settings=TINY, num_processes=num_processes, progress=progress
    )
    for name, total in (("language_model", 6), ("audio_tower", 2)):
        assert sorted(set(told[name])) == list(range(1, total + 1))
        assert told[name] == sorted(told[name])


def test_exchanges_teach_the_language_model_and_need_a_share(manifest, tmp_path):
    exchanges = tmp_path / "exchanges.jsonl"
    write_exchanges(exchanges, [Exchange("rojo azul", "reverse", "azul rojo")])
    with pytest.raises(ValueError, match="give both the kind 'answer' a share and exchanges"):
        build_miniature(
            [manifest], tmp_path / "no", exchanges=[exchanges], settings=TINY, num_processes=1
        )
    settings = replace(TINY, mixture={"copy": 1, "answer": 1})
    out = build_miniature(
        [manifest], tmp_path / "yes", exchanges=[exchanges], settings=settings, num_processes=1
    )
    tokenizer = AutoTokenizer.from_pretrained(out / "language_model")
    assert tokenizer.decode(tokenizer("reverse")["input_ids"]) == "reverse"


def test_the_language_model_may_leave_the_transcripts_out(manifest, tmp_path):
    (tmp_path / "text.txt").write_text("uno dos\n")
    settings = replace(TINY, learn_transcripts=False)
    out = build_miniature(
        [manifest], tmp_path / "towers", texts=[tmp_path / "text.txt"], settings=settings,
        num_processes=1,
    )  # fmt: skip
    vocabulary = AutoTokenizer.from_pretrained(out / "language_model").get_vocab()
    assert {letter for token in vocabulary for letter in token if token[0] != "<"} == set("▁unodos")
    with pytest.raises(ValueError, match="the language model has no text"):
        build_miniature([manifest], tmp_path / "none", settings=settings, num_processes=1)


def test_an_empty_text_file_is_refused(manifest, tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(ValueError, match=r"empty\.txt holds no text"):
        build_miniature([manifest], tmp_path / "out", texts=[tmp_path / "empty.txt"], settings=TINY)


def test_transcripts_that_cannot_belong_to_the_audio_are_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(1600), 16000)
    text = "ein satz der in ein zehntel einer sekunde nicht passt"
    write_manifest(tmp_path / "m.jsonl", [Utterance("a", tmp_path / "a.wav", text, "de")])
    with pytest.raises(ValueError, match="more units than the encoder has frames"):
        build_miniature([tmp_path / "m.jsonl"], tmp_path / "out", settings=TINY, num_processes=1)


def test_towers_that_stand_are_not_overwritten(manifest, towers):
    with pytest.raises(ValueError, match="audio_tower exists already; name another folder"):
        build_miniature([manifest], towers, settings=TINY, num_processes=1)


def test_a_tower_by_itself_is_the_one_of_both(manifest, towers, tmp_path):
    for name in ("audio_tower", "language_model"):
        alone = build_tower(name, [manifest], tmp_path, settings=TINY)
        ours, theirs = (load_file(f / "model.safetensors") for f in (alone, towers / name))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    with pytest.raises(ValueError, match="exists already"):
        build_tower("audio_tower", [manifest], tmp_path, settings=TINY)
