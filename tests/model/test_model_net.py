"""What the model, its processor and its batches must keep, seen through forward and generate."""

import re

import pytest
import torch
from tiny_towers import TEXTS, make_audio, make_tokenizer
from transformers import Wav2Vec2FeatureExtractor

from otreg.data import SpeechTextCollator, SpeechTextDataset, Utterance
from otreg.model import SpeechLMProcessor, set_trainable

CLIPS = make_audio(1.7, 0.5, 1.1)
LANGUAGES = ["en", "es", "de"]


@torch.no_grad()
def _frames(model, processor):
    """The speech embeddings of every clip before any compression, (frames of the batch, dim)."""
    batch = processor(CLIPS)
    return model.get_audio_features(
        batch["input_features"], batch["input_features_mask"]
    ).pooler_output


def _cosine(a, b):
    return torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=-1)


# Merging and soft dropping together.


def _oracle_logits(model, processor, clip, text, speech):
    """One row's logits, put together by hand: prompt, merged frames, transcript, weighted keys."""
    config = model.config
    row = processor([clip], [text])["input_ids"][0]
    at = (row == config.audio_token_id).nonzero().flatten()
    before, after = row[: int(at[0])], row[int(at[-1]) + 1 :]
    embed = model.get_input_embeddings()
    embeds = torch.cat([embed(before), speech, embed(after)])
    pad = embed.weight[config.pad_token_id]
    keep = torch.sigmoid(
        (config.drop_threshold - _cosine(speech, pad)) / config.drop_temperature
    ).float()
    first = len(before)
    mask = torch.full((len(embeds), len(embeds)), -65504.0)
    for query in range(len(embeds)):
        for key in range(query + 1):
            is_speech = first <= key < first + len(speech)
            mask[query, key] = float(keep[key - first].log()) if is_speech else 0.0
    logits = model.language_model(
        inputs_embeds=embeds[None],
        attention_mask=mask[None, None],
        position_ids=torch.arange(len(embeds))[None],
    ).logits[0]
    return logits, keep


@pytest.mark.parametrize("padding_side", ["left", "right"])
@torch.no_grad()
def test_a_merged_frame_takes_its_own_soft_weight_along(build, padding_side):
    model, processor = build()
    frames = _frames(model, processor)
    model.config.merge_threshold = float(_cosine(frames[1:], frames[:-1]).median())
    pad = model.get_input_embeddings().weight[model.config.pad_token_id]
    model.config.drop_threshold = float(_cosine(frames, pad).median())
    model.config.drop_temperature = 0.05
    batch = processor(CLIPS, TEXTS[:3], padding_side=padding_side)
    out = model.train()(**batch)
    model.eval()
    placeholders = (batch["input_ids"] == model.config.audio_token_id).sum(1)
    for i in range(3):
        speech = out.speech_embeds[i][out.speech_mask[i]]
        assert 0 < len(speech) < placeholders[i]  # merged
        expected, keep = _oracle_logits(model, processor, CLIPS[i], TEXTS[i], speech)
        assert float(keep.max() - keep.min()) > 0.2  # a weight in another's place would show
        columns = slice(-len(expected), None) if padding_side == "left" else slice(len(expected))
        torch.testing.assert_close(out.logits[i, columns], expected, atol=1e-4, rtol=1e-4)


# Soft dropping.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@torch.no_grad()
def test_a_frame_however_surely_dropped_sees_nothing_that_comes_after_it(build, dtype):
    """Of two keys, one hidden and one of weight e^-100,000, a query must see the second."""
    model, processor = build()
    processor = SpeechLMProcessor.from_config(
        model.config,
        processor.feature_extractor,
        processor.tokenizer,
        prompt_template="{audio}{sep}",
    )
    model.config.drop_threshold, model.config.drop_temperature = -1.0, 1e-5
    model.to(dtype)
    batch = processor(CLIPS[:1], TEXTS[:1])
    batch["input_features"] = batch["input_features"].to(dtype)
    frames = int((batch["input_ids"] == model.config.audio_token_id).sum())
    assert int(batch["input_ids"][0, 0]) == model.config.audio_token_id  # no token before it
    model.train()
    one = model(**batch).logits[0, :frames]
    batch["input_ids"][0, -2] = (batch["input_ids"][0, -2] + 7) % 200 + 50
    other = model(**batch).logits[0, :frames]
    assert torch.isfinite(one).all()
    torch.testing.assert_close(other, one, rtol=0, atol=0)


def test_the_pad_row_is_a_fixed_anchor_of_soft_dropping(build):
    """The language model trains, its pad row does not learn to look like speech."""
    model, processor = build(language_model="llama")  # its output layer is apart from its table
    assert not model.language_model.config.tie_word_embeddings
    frames = _frames(model, processor)
    table = model.get_input_embeddings().weight
    pad = table[model.config.pad_token_id].detach()
    model.config.drop_threshold = float(_cosine(frames, pad).median())
    model.config.drop_temperature = 0.2
    set_trainable(model, ["adapter", "language_model"])
    model.train()
    batch = processor(CLIPS, TEXTS[:3])
    model(**batch).loss.backward()
    assert not table.grad[model.config.pad_token_id].any()
    used = batch["text_ids"][batch["text_mask"]].unique()
    assert table.grad[used].any(1).all()


# One placeholder a frame, no more and no fewer.


@pytest.mark.parametrize("surplus", [-1, 1])
@pytest.mark.parametrize("call", ["forward", "generate"])
def test_placeholders_in_surplus_or_missing_are_refused(build, surplus, call):
    model, processor = build()
    batch = processor(CLIPS, TEXTS[:3]) if call == "forward" else processor(CLIPS)
    audio = model.config.audio_token_id
    row = batch["input_ids"][1]
    frames = int((row == audio).sum())
    if surplus > 0:
        row[-1] = audio
    else:
        row[int((row == audio).nonzero()[0])] = 5
    run = model if call == "forward" else model.generate
    with pytest.raises(ValueError, match=rf"{frames + surplus} audio placeholders.* {frames} sp"):
        run(**batch)


def test_placeholders_that_add_up_over_the_batch_but_not_in_a_row_are_refused(build):
    model, processor = build()
    batch = processor(CLIPS, TEXTS[:3])
    audio = model.config.audio_token_id
    batch["input_ids"][0, int((batch["input_ids"][0] == audio).nonzero()[0])] = 5
    batch["input_ids"][1, -1] = audio
    with pytest.raises(ValueError, match=r"audio placeholders"):
        model(**batch)


# The language in the prompt, from the processor and from the data.


def _processor(**options):
    return SpeechLMProcessor(
        Wav2Vec2FeatureExtractor(),
        make_tokenizer(chat=options.pop("chat", False)),
        encoder_frame_plan=[(400, 320, 0)],
        adapter_stack=2,
        **options,
    )


PROMPTS = {
    "plain": ({"prompt_template": "{bos}({language}){audio}{sep}"}, r"^<s>\((\w*)\)"),
    "chat": ({"chat": True, "instruction": "Write [{language}]"}, r"Write \[(\w*)\]"),
}


def _languages(processor, batch, pattern):
    """The language that each row's prompt names."""
    rows = []
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True):
        kept = [i for i in ids[mask].tolist() if i != processor.audio_token_id]
        rows.append(re.search(pattern, processor.tokenizer.decode(kept)).group(1))
    return rows


@pytest.mark.parametrize("kind", PROMPTS)
@pytest.mark.parametrize("text", [TEXTS[:3], None], ids=["training", "generating"])
def test_the_processor_names_each_rows_language_in_its_prompt(kind, text):
    options, pattern = PROMPTS[kind]
    processor = _processor(**options)
    assert _languages(processor, processor(CLIPS, text, LANGUAGES), pattern) == LANGUAGES
    assert _languages(processor, processor(CLIPS, text, "fr"), pattern) == ["fr"] * 3
    assert _languages(processor, processor(CLIPS, text), pattern) == [""] * 3


@pytest.fixture
def corpus(tmp_path):
    """Three utterances in three languages, the last of none that is known."""
    import soundfile

    utterances = []
    for i, clip in enumerate(CLIPS):
        path = tmp_path / f"{i}.wav"
        soundfile.write(path, clip, 16_000, subtype="FLOAT")
        language = LANGUAGES[i] if i < 2 else ""
        utterances.append(Utterance(id=f"u{i}", audio=path, text=TEXTS[i], language=language))
    return utterances


@pytest.mark.parametrize("kind", PROMPTS)
@pytest.mark.parametrize("training", [True, False])
def test_the_data_names_each_rows_language_in_its_prompt(corpus, kind, training):
    options, pattern = PROMPTS[kind]
    processor = _processor(**options)
    dataset = SpeechTextDataset(corpus, processor)
    batch = SpeechTextCollator(processor, training=training)([dataset[i] for i in range(3)])
    assert _languages(processor, batch, pattern) == ["en", "es", ""]


def test_the_lengths_for_a_sampler_count_the_languages_tokens(corpus):
    processor = _processor(prompt_template="{bos}({language}){audio}{sep}")
    dataset = SpeechTextDataset(corpus, processor)
    batch = SpeechTextCollator(processor)([dataset[i] for i in range(3)])
    assert dataset.lengths() == batch["attention_mask"].sum(1).tolist()


# Transcripts in the batch.


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("source", ["processor", "data"])
def test_the_transcripts_ids_stand_where_their_mask_is_true(corpus, side, source):
    processor = _processor()
    if source == "processor":
        batch = processor(CLIPS, TEXTS[:3], padding_side=side)
    else:
        dataset = SpeechTextDataset(corpus, processor)
        collate = SpeechTextCollator(processor, padding_side=side)
        batch = collate([dataset[i] for i in range(3)])
    for i in range(3):
        expected = processor.tokenizer(TEXTS[i], add_special_tokens=False)["input_ids"]
        assert batch["text_ids"][i][batch["text_mask"][i]].tolist() == expected
        labels = batch["labels"][i]
        assert labels[labels != -100].tolist() == [*expected, processor.eos_token_id]
    assert len({int(n) for n in batch["text_mask"].sum(1)}) > 1  # some row is padded
