"""Decoding, on a tiny random model with the real classes, and on one that says what it is told."""

from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from otreg.data import (
    EncoderCache,
    SpeechTextDataset,
    Utterance,
)
from otreg.model import SpeechLMForConditionalGeneration, SpeechLMProcessor
from otreg.model.generation import Transcription, transcribe
from otreg.prepare.encoder_states import build_encoder_cache, encoder_fingerprint


@pytest.fixture
def utterances(tmp_path):
    rng = np.random.default_rng(0)
    made = []
    for number, duration_s in enumerate((0.7, 1.6, 0.4, 1.1, 1.9)):
        time_s = np.arange(round(duration_s * 16000)) / 16000
        tone = 0.3 * np.sin(2 * np.pi * rng.uniform(150, 900) * time_s * (1 + time_s))
        soundfile.write(tmp_path / f"{number}.wav", tone, 16000)
        made.append(Utterance(f"u{number}", tmp_path / f"{number}.wav", f"text {number}", "en"))
    return made


def tokenizer():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: n for n, token in enumerate(["<pad>", "<s>", "</s>", "<asr>", *alphabet])}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture(scope="module")
def speech_lm():
    """A random model of which what it says depends on what it hears."""
    torch.manual_seed(0)
    encoder = WhisperEncoder(
        WhisperConfig(
            d_model=16,
            encoder_layers=1,
            encoder_attention_heads=2,
            encoder_ffn_dim=16,
            num_mel_bins=20,
            max_source_positions=100,
        )
    )
    tokens = tokenizer()
    language_model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokens),
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    with torch.no_grad():
        for parameter in language_model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.4)
    model = SpeechLMForConditionalGeneration.from_towers(
        encoder, language_model, adapter_type="conv", adapter_stack=2, short_mel=True
    )
    extractor = WhisperFeatureExtractor(feature_size=20, chunk_length=2)
    return model, SpeechLMProcessor.from_config(model.config, extractor, tokens)


def test_batched_decoding_equals_decoding_one_at_a_time(speech_lm, utterances):
    model, processor = speech_lm
    single = transcribe(model, processor, utterances, batch_size=1, max_new_tokens=12)
    for batch_size in (2, 5):
        batched = transcribe(model, processor, utterances, batch_size=batch_size, max_new_tokens=12)
        assert batched == single
    assert len({item.hypothesis for item in single}) > 1


def test_results_stand_in_the_order_of_the_utterances(speech_lm, utterances):
    model, processor = speech_lm
    forward = transcribe(model, processor, utterances, batch_size=2, max_new_tokens=5)
    backward = transcribe(model, processor, utterances[::-1], batch_size=2, max_new_tokens=5)
    assert [(item.id, item.reference) for item in forward] == [
        (f"u{n}", f"text {n}") for n in range(5)
    ]
    assert backward[::-1] == forward


def test_the_model_s_own_generate_is_the_oracle(speech_lm, utterances):
    model, processor = speech_lm
    item = transcribe(model, processor, utterances[:1], max_new_tokens=7)[0]
    samples, _ = soundfile.read(utterances[0].audio, dtype="float32")
    inputs = processor(samples)
    ids = model.generate(**inputs, max_new_tokens=7)[:, inputs["input_ids"].shape[1] :]
    assert item.hypothesis == processor.batch_decode(ids)[0].strip()


def test_decoding_from_an_encoder_cache_changes_nothing(speech_lm, utterances, tmp_path):
    model, processor = speech_lm
    dataset = SpeechTextDataset(utterances, processor)
    cache = build_encoder_cache(model, dataset, tmp_path / "cache", batch_size=2)
    plain = transcribe(model, processor, dataset, batch_size=3, max_new_tokens=8)
    cached = transcribe(
        model, processor, utterances, batch_size=3, max_new_tokens=8, encoder_cache=cache
    )
    assert cached == plain
    with pytest.raises(ValueError, match="a dataset has its own encoder cache"):
        transcribe(model, processor, dataset, encoder_cache=cache)


def test_a_saved_and_reloaded_model_keeps_its_encoder_cache(speech_lm, utterances, tmp_path):
    model, processor = speech_lm
    dataset = SpeechTextDataset(utterances, processor)
    build_encoder_cache(model, dataset, tmp_path / "cache")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    reloaded = SpeechLMForConditionalGeneration.from_pretrained(tmp_path / "model")
    fingerprint = encoder_fingerprint(
        reloaded, SpeechLMProcessor.from_pretrained(tmp_path / "model")
    )
    assert len(EncoderCache(tmp_path / "cache", fingerprint=fingerprint)) == 5
    with torch.no_grad():
        reloaded.multi_modal_projector.output.weight.add_(1)
    assert encoder_fingerprint(reloaded, processor) == fingerprint


def test_cached_states_do_not_depend_on_batch_mates(speech_lm, utterances, tmp_path):
    model, processor = speech_lm
    dataset = SpeechTextDataset(utterances, processor)
    one = build_encoder_cache(model, dataset, tmp_path / "one", batch_size=1)
    five = build_encoder_cache(model, dataset, tmp_path / "five", batch_size=5)
    for utterance in utterances:
        torch.testing.assert_close(one.get(utterance)[0], five.get(utterance)[0])


def test_lengths_fit_the_collated_rows_of_the_real_processor(speech_lm, utterances):
    from otreg.data import SpeechTextCollator

    _, processor = speech_lm
    dataset = SpeechTextDataset(utterances, processor)
    collator = SpeechTextCollator(processor)
    made = [collator([dataset[n]])["input_ids"].shape[1] for n in range(len(dataset))]
    assert dataset.lengths() == made


def test_the_model_is_left_in_the_mode_it_was_in(speech_lm, utterances):
    model, processor = speech_lm
    model.language_model.train()
    model.audio_tower.eval()
    transcribe(model, processor, utterances[:1], max_new_tokens=2)
    assert model.language_model.training
    assert not model.audio_tower.training
    model.eval()


class Echo(torch.nn.Module):
    """Says a fixed sequence of tokens for each row."""

    device = torch.device("cpu")

    def __init__(self, rows, eos):
        super().__init__()
        self.rows, self.generation_config = rows, SimpleNamespace(eos_token_id=eos)
        self.seen = []

    def generate(self, input_ids, max_new_tokens, do_sample, num_beams, **batch):
        assert not do_sample
        assert num_beams == 1
        self.seen.append(batch["input_features"].shape)
        new = torch.tensor(self.rows)[: len(input_ids), :max_new_tokens]
        return torch.cat([input_ids, new], dim=1)


@pytest.mark.parametrize("eos", [2, [7, 2]])
def test_hit_limit_tells_rows_that_did_not_end(speech_lm, utterances, eos):
    _, processor = speech_lm
    rows = [[70, 2, 0], [70, 71, 2], [70, 71, 72]]
    done = transcribe(Echo(rows, eos), processor, utterances[:3], max_new_tokens=3)
    order = sorted(range(3), key=lambda n: -utterances[n].audio.stat().st_size)
    assert [done[n].hit_limit for n in order] == [False, False, True]
    cut = transcribe(Echo(rows, eos), processor, utterances[:3], max_new_tokens=2)
    assert [cut[n].hit_limit for n in order] == [False, True, True]
    early = transcribe(Echo(rows, eos), processor, utterances[:3], max_new_tokens=9)
    assert not any(item.hit_limit for item in early)
    without = transcribe(Echo(rows, None), processor, utterances[:3], max_new_tokens=3)
    assert all(item.hit_limit for item in without)


def test_the_longest_come_first_and_like_with_like(speech_lm, utterances):
    _, processor = speech_lm
    model = Echo([[70, 2]] * 2, 2)
    transcribe(model, processor, utterances, batch_size=2, max_new_tokens=2)
    frames = [shape[1] for shape in model.seen]
    assert frames == sorted(frames, reverse=True)
    assert [shape[0] for shape in model.seen] == [2, 2, 1]


def test_progress_goes_to_stderr_alone(speech_lm, utterances, capsys):
    _, processor = speech_lm
    for progress in (False, True):
        done = transcribe(
            Echo([[70, 2]], 2), processor, utterances[:1], max_new_tokens=2, progress=progress
        )
        assert done == [Transcription("u0", "text 0", processor.decode([70]), False)]
        captured = capsys.readouterr()
        assert captured.out == ""
        assert ("transcribing" in captured.err) == progress


def test_utterances_without_a_transcript_can_be_decoded(speech_lm, utterances):
    model, processor = speech_lm
    unknown = [Utterance("x", utterances[0].audio)]
    assert transcribe(model, processor, unknown, max_new_tokens=2)[0].reference == ""


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"max_new_tokens": 0}])
def test_numbers_out_of_range_are_refused(speech_lm, utterances, options):
    with pytest.raises(ValueError, match="must be at least 1"):
        transcribe(*speech_lm, utterances, **options)
