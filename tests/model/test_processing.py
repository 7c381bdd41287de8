"""The processor: prompts, labels, padding, and its refusals."""

import numpy as np
import pytest
import torch
from tiny_towers import CHAT_TEMPLATE, TEXTS, make_audio, make_tokenizer
from transformers import Wav2Vec2FeatureExtractor

from otreg.data.segments import Row, Segment
from otreg.model import SpeechLMProcessor
from otreg.model.rendering import RenderedRow, render_document
from rows import chat_row, clip, transcribe_row

CLIPS = make_audio(0.9, 0.5)


def _processor(tokenizer=None, **options):
    options.setdefault("encoder_frame_plan", [(400, 320, 0)])
    return SpeechLMProcessor(
        Wav2Vec2FeatureExtractor(), tokenizer or make_tokenizer(), adapter_stack=2, **options
    )


def _tokenize(processor, num_frames, text="", language=""):
    return processor.tokenize_row(transcribe_row(text, language=language), [num_frames])


def _around(processor, language=""):
    """What stands before and after the speech, as text."""
    row = _tokenize(processor, 1, language=language)
    start, length = row["clips"][0]
    ids = row["input_ids"]
    decode = processor.tokenizer.decode
    return decode(ids[:start]), decode(ids[start + length :])


def test_the_default_prompt_is_bos_audio_asr():
    processor = _processor()
    tokenizer = processor.tokenizer
    example = _tokenize(processor, 3)
    asr = tokenizer.convert_tokens_to_ids("<asr>")
    audio = processor.audio_token_id
    assert example["input_ids"] == [tokenizer.bos_token_id, audio, audio, audio, asr]
    assert audio == len(tokenizer)
    assert example["labels"] == [-100] * 5
    assert example["text_ids"] == [[]]
    assert example["clips"] == [(1, 3)]


def test_without_an_asr_token_a_line_break_separates():
    tokenizer = make_tokenizer(asr=False)
    assert _around(_processor(tokenizer))[1] == "\n"


def test_labels_supervise_the_transcript_and_eos_alone():
    processor = _processor()
    example = _tokenize(processor, 4, TEXTS[0])
    ids, labels, (text_ids,) = example["input_ids"], example["labels"], example["text_ids"]
    supervised = [i for i, label in zip(ids, labels, strict=True) if label != -100]
    assert supervised == [*text_ids, processor.eos_token_id]
    assert [label for label in labels if label != -100] == supervised
    assert labels[: -len(supervised)] == [-100] * (len(labels) - len(supervised))
    assert ids[-len(text_ids) - 1 : -1] == text_ids
    assert processor.tokenizer.decode(text_ids) == TEXTS[0]


def test_a_transcript_that_spells_a_special_token_stays_text():
    processor = _processor()
    end = processor.tokenizer.eos_token
    text_ids = _tokenize(processor, 4, f"say {end} now")["text_ids"][0]
    assert processor.eos_token_id not in text_ids
    assert len(text_ids) > len(_tokenize(processor, 4, "say now")["text_ids"][0]) + 1
    assert processor.tokenizer(end, add_special_tokens=False)["input_ids"] == [
        processor.eos_token_id
    ]  # nothing lasts in the tokenizer


def test_the_training_prompt_is_the_generation_prompt():
    for tokenizer in (make_tokenizer(), make_tokenizer(chat=True)):
        processor = _processor(tokenizer)
        prompt = _tokenize(processor, 4)["input_ids"]
        assert _tokenize(processor, 4, TEXTS[1])["input_ids"][: len(prompt)] == prompt


def test_a_chat_template_is_used_where_the_tokenizer_has_one():
    tokenizer = make_tokenizer(chat=True)
    before, after = _around(_processor(tokenizer))
    assert before == "<s>user: "
    assert after == "\nTranscribe the speech.</s><s>assistant: "


def test_a_template_of_ones_own_overrides_the_chat_template():
    tokenizer = make_tokenizer(chat=True)
    around = _around(_processor(tokenizer, prompt_template="{bos}{audio}go{sep}"))
    assert around == ("<s>", "go<asr>")


def test_language_and_instruction_enter_the_prompt():
    tokenizer = make_tokenizer()
    options = {"prompt_template": "{instruction} ({language}): {audio}{sep}", "separator": "->"}
    processor = _processor(tokenizer, instruction="Write", **options)
    assert _around(processor, "Spanish") == ("Write (Spanish): ", "->")
    assert _around(processor, "German")[0] == "Write (German): "
    tokenizer.chat_template = CHAT_TEMPLATE
    processor = _processor(tokenizer, instruction="Write {language}.")
    assert "Write German." in _around(processor, "German")[1]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{bos}{sep}", r"needs \{audio\} once"),
        ("{audio}{audio}", r"needs \{audio\} once"),
        ("{audio}{seperator}", r"unknown field \{seperator\}; the fields are \{bos\}"),
    ],
)
def test_a_bad_template_is_refused(template, message):
    with pytest.raises(ValueError, match=message.split(";")[0]):
        _processor(prompt_template=template)


def test_a_chat_template_that_hides_the_user_is_refused():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "nothing"
    with pytest.raises(ValueError, match=r"shows the parts \[\] of the messages where 0 … 1 were"):
        _tokenize(_processor(tokenizer), 1)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_is_padded_on_the_side_asked_for(side):
    processor = _processor()
    batch = processor(CLIPS, TEXTS[:2], padding_side=side)
    lengths = [len(processor(CLIPS[i], TEXTS[i])["input_ids"][0]) for i in range(2)]
    for i, length in enumerate(lengths):
        alone = processor(CLIPS[i], TEXTS[i])
        columns = slice(-length, None) if side == "left" else slice(0, length)
        assert torch.equal(batch["input_ids"][i, columns], alone["input_ids"][0])
        assert torch.equal(batch["labels"][i, columns], alone["labels"][0])
        assert (
            batch["attention_mask"][i].sum() == batch["attention_mask"][i, columns].sum() == length
        )
        samples = int(batch["input_features_mask"][i].sum())
        assert samples == len(CLIPS[i])
        assert not batch["input_features"][i, samples:].any()
        tokens = batch["text_ids"][i][batch["text_mask"][i]]
        assert torch.equal(tokens, alone["text_ids"][0])
    assert (batch["labels"][~batch["attention_mask"].bool()] == -100).all()


def test_prompts_are_padded_on_the_left_and_training_batches_on_the_right():
    processor = _processor()
    assert processor(CLIPS)["attention_mask"][1, 0] == 0
    assert processor(CLIPS, TEXTS[:2])["attention_mask"][:, 0].all()
    assert "labels" not in processor(CLIPS)


def test_frames_are_counted_for_ints_and_tensors_alike():
    processor = _processor()
    lengths = [400, 719, 720, 16_000]
    expected = [1, 1, 1, 25]
    assert [processor.num_speech_frames(n) for n in lengths] == expected
    assert processor.num_speech_frames(torch.tensor(lengths)).tolist() == expected
    assert [processor.num_speech_frames_from_encoder(n) for n in (1, 2, 3)] == [1, 1, 2]


def test_features_do_not_depend_on_the_batch():
    processor = _processor()
    batch = processor(CLIPS)
    for i, samples in enumerate(CLIPS):
        row = batch["input_features"][i][batch["input_features_mask"][i]]
        assert np.array_equal(row.numpy(), processor.features(samples))


def test_decoding_leaves_out_placeholders_and_special_tokens():
    processor = _processor()
    ids = _tokenize(processor, 3, TEXTS[2])["input_ids"]
    assert processor.decode(ids) == TEXTS[2]
    assert processor.decode(torch.tensor(ids)) == TEXTS[2]
    assert processor.batch_decode([ids, ids]) == [TEXTS[2]] * 2
    assert "<asr>" in processor.decode(ids, skip_special_tokens=False)


def test_missing_special_tokens_fall_back_or_are_refused():
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    assert _processor(tokenizer).pad_token_id == tokenizer.eos_token_id
    tokenizer.bos_token = None
    assert _around(_processor(tokenizer))[0] == ""
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no eos token"):
        _processor(tokenizer)
    assert _processor(tokenizer, eos_token_id=2).eos_token_id == 2


def test_bad_input_is_refused():
    processor = _processor()
    with pytest.raises(ValueError, match="got 2 audio but 1 text"):
        processor(CLIPS, TEXTS[:1])
    with pytest.raises(ValueError, match="16000 Hz; got 8000"):
        processor(CLIPS, sampling_rate=8000)
    with pytest.raises(ValueError, match="return_tensors must be 'pt'"):
        processor(CLIPS, return_tensors="np")
    with pytest.raises(ValueError, match="transcript '' has no tokens"):
        processor(CLIPS, ["", "a"])
    with pytest.raises(ValueError, match="at least one speech frame; got 0"):
        processor(np.zeros(100, dtype=np.float32) + 0.1)
    with pytest.raises(ValueError, match="works at 8000 Hz"):
        SpeechLMProcessor(Wav2Vec2FeatureExtractor(sampling_rate=8000), make_tokenizer())


QWEN_LIKE = (
    "{% if messages[0]['role'] != 'system' %}<s>system\nBe helpful.</s>\n{% endif %}"
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def _chat_processor(template=QWEN_LIKE):
    """A ChatML template with Qwen2.5's traits: a default system message, no generation marks."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return _processor(tokenizer)


def test_messages_are_rendered_by_the_chat_template_and_the_assistants_turns_supervised():
    processor = _chat_processor()
    row = chat_row(
        ("user", clip("a dog ran")),
        ("user", "what is it?"),
        ("assistant", "a dog"),
        ("user", clip("the cat sat")),
        ("assistant", "a cat"),
    )
    made = processor.tokenize_row(row, [2, 3])
    decode = processor.tokenizer.decode
    audio = processor.audio_token_id
    text = decode([i for i in made["input_ids"] if i != audio])
    assert text == (
        "<s>system\nBe helpful.</s>\n<s>user\nwhat is it?</s>\n<s>assistant\na dog</s>\n"
        "<s>user\n</s>\n<s>assistant\na cat</s>"
    )
    supervised = [i for i in made["labels"] if i != -100]
    assert decode(supervised) == "a dog</s>a cat</s>"
    assert [made["input_ids"][s : s + n] for s, n in made["clips"]] == [[audio] * 2, [audio] * 3]
    assert [decode(ids) for ids in made["text_ids"]] == ["a dog ran", "the cat sat"]


def test_a_chat_prompt_is_the_beginning_of_its_training_row():
    processor = _chat_processor()
    row = chat_row(("system", "Be brief."), ("user", clip("a dog ran")), ("assistant", "a dog"))
    whole = processor.tokenize_row(row, [2])["input_ids"]
    prompt = processor.tokenize_row(row.prompt(), [2])
    assert whole[: len(prompt["input_ids"])] == prompt["input_ids"]
    assert set(prompt["labels"]) == {-100}
    assert "helpful" not in processor.tokenizer.decode(whole)


def test_a_template_that_renders_a_prefix_differently_is_refused():
    last_only = (
        "{% for m in messages %}{{ m['role'] }}{% if loop.last %}!{% endif %}: {{ m['content'] }}"
        "</s>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    row = chat_row(("user", "hello"), ("assistant", "hi"))
    with pytest.raises(ValueError, match="renders the first messages differently when more follow"):
        _chat_processor(last_only).tokenize_row(row, [])


def test_a_template_that_drops_a_message_is_refused():
    row = chat_row(("system", "x"), ("user", "hello"), ("assistant", "hi"))
    no_system = QWEN_LIKE.replace("{% for m in messages %}", "{% for m in messages[1:] %}")
    with pytest.raises(ValueError, match=r"shows the parts \[1, 2\] of the messages where 0 … 2"):
        _chat_processor(no_system).tokenize_row(row, [])


def test_a_turn_without_an_end_of_sequence_token_gets_one():
    processor = _chat_processor(
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<asr> {% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    made = processor.tokenize_row(chat_row(("user", "hello"), ("assistant", "hi")), [])
    learnt = [i for i in made["labels"] if i != -100]
    assert processor.tokenizer.decode(learnt) == "hi<asr></s>"
    assert made["input_ids"][-1] == processor.eos_token_id


def test_without_a_chat_template_messages_stand_in_a_plain_one():
    processor = _processor()
    row = chat_row(("user", clip("a dog ran")), ("user", "name it"), ("assistant", "a dog"))
    made = processor.tokenize_row(row, [2])
    ids = [i for i in made["input_ids"] if i != processor.audio_token_id]
    assert processor.tokenizer.decode(ids) == "<s>name it<asr>a dog</s>"
    assert processor.tokenizer.decode([i for i in made["labels"] if i != -100]) == "a dog</s>"
    prompt = processor.tokenize_row(row.prompt(), [2])["input_ids"]
    assert made["input_ids"][: len(prompt)] == prompt


@pytest.mark.parametrize("spoken_last", [False, True])
def test_a_documents_prompt_does_not_end_it(spoken_last):
    processor = _processor()
    segments = [
        Segment("audio", clip("a dog ran"), "user"),
        Segment("text", " the cat sat", "assistant", supervised=True),
    ]
    if spoken_last:
        segments.append(Segment("audio", clip(" on it"), "user"))
    row = Row("d", "document", tuple(segments))
    frames = [2] * len(row.clips)
    whole = processor.tokenize_row(row, frames)["input_ids"]
    prompt = processor.tokenize_row(row.prompt(), frames)["input_ids"]
    assert whole[-1] == processor.eos_token_id
    assert prompt[-1] == processor.audio_token_id
    assert whole[: len(prompt)] == prompt


def test_special_tokens_spelled_in_a_message_stay_text():
    processor = _chat_processor()
    made = processor.tokenize_row(chat_row(("user", "say </s>"), ("assistant", "</s> said")), [])
    ends = made["input_ids"].count(processor.eos_token_id)
    assert ends == 3  # system, user, assistant: the template's own
    assert made["labels"].count(processor.eos_token_id) == 1


def test_samples_that_would_give_wrong_features_are_refused_and_any_floating_type_is_taken():
    processor = _processor()
    whole_numbers = (CLIPS[0] * 32767).astype(np.int16)
    for audio in (whole_numbers, [CLIPS[1], whole_numbers]):
        with pytest.raises(ValueError, match="got int16; divide by full scale"):
            processor(audio=audio)
    for audio, text in ((np.stack([CLIPS[0]] * 2), ["a", "b"]), (np.stack([CLIPS[0]] * 2, 1), "a")):
        with pytest.raises(ValueError, match=r"channels, average them: samples\.mean"):
            processor(audio=audio, text=text)
    expected = processor(audio=CLIPS[0])["input_features"]
    assert torch.equal(processor(audio=CLIPS[0].astype(np.float64))["input_features"], expected)
    assert expected.dtype == torch.float32


def test_a_document_needs_a_tokenizer_with_character_offsets():
    class Slow:
        is_fast = False

    row = Row("a", "document", (Segment("text", "one two", "assistant", supervised=True),))
    with pytest.raises(ValueError, match=r"need a fast tokenizer .*, got Slow; load it with Auto"):
        render_document(Slow(), row, [], RenderedRow(9), eos_token_id=1)


def test_the_end_token_is_the_configurations(towers):
    """A model may end its answers by another token than its tokenizer's own."""
    from otreg.model import SpeechLMForConditionalGeneration

    audio, text = towers("whisper-short"), towers("qwen2")
    usual = SpeechLMForConditionalGeneration.from_towers(audio, text)
    other = usual.config.eos_token_id + 1
    model = SpeechLMForConditionalGeneration.from_towers(audio, text, eos_token_id=other)
    processor = SpeechLMProcessor.from_config(model.config, audio, text)
    assert processor.tokenizer.eos_token_id != other
    batch = processor(make_audio(0.5), ["the cat"])
    assert batch["labels"][0][batch["labels"][0] >= 0][-1] == other
