from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from otreg.data.manifest import Word
from otreg.prepare.program import Unusable
from otreg.prepare.spelling import ANY, Label, spell, token_labels, word_spans, word_times

VOCABULARY = {"<pad>": 0, "|": 1} | {c: i for i, c in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZ'", 2)}


def words(text: str, language: str = "en") -> list[str]:
    return [text[start:end] for start, end in word_spans(text, language)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the cat", ["the", "cat"]),
        ("  the\tcat \n", ["the", "cat"]),
        ("well - no , really !", ["well -", "no ,", "really !"]),
        ("« oui »", ["« oui »"]),
        ("- yes", ["- yes"]),
        ("…", ["…"]),
        ("", []),
    ],
)
def test_words_are_cut_at_white_space_and_take_lone_punctuation_with_them(text, expected) -> None:
    assert words(text) == expected


def test_languages_without_spaces_are_cut_into_characters() -> None:
    assert words("你好，世界", "zh-CN") == ["你", "好，", "世", "界"]
    assert words("កខ គ", "khm") == ["ក", "ខ", "គ"]
    assert words("नमस्ते दुनिया", "hi") == ["नमस्ते", "दुनिया"]


def test_only_white_space_lies_between_words() -> None:
    text = "well - no, « oui » 42"
    rest = list(text)
    for start, end in word_spans(text):
        rest[start:end] = " " * (end - start)
    assert "".join(rest).isspace()


def test_characters_take_the_vocabularys_case_and_punctuation_is_passed_over() -> None:
    labels = spell("He said: «Don't!»  straße", VOCABULARY, "|")
    letters = {number: character for character, number in VOCABULARY.items()}
    assert "".join(letters[label.id] for label in labels) == "HE|SAID|DON'T|STRASSE"
    assert [(label.start, label.end) for label in labels if label.id != 1][:3] == [
        (0, 1),
        (1, 2),
        (3, 4),
    ]


def test_unknown_letters_and_digits_are_refused_or_stand_for_any_character() -> None:
    with pytest.raises(Unusable, match="does not know the character '4' of 'room 4'") as error:
        spell("room 4", VOCABULARY, "|")
    assert error.value.reason == "a character that the CTC model does not know"
    assert spell("4", VOCABULARY, "|", unknown="any") == [Label(ANY, 0, 1)]
    with pytest.raises(Unusable, match="no character of '…!' is known"):
        spell("…!", VOCABULARY, "|")


def test_no_delimiter_stands_at_the_edges_or_twice() -> None:
    labels = spell(" - a -  b - ", VOCABULARY, "|")
    assert [label.id for label in labels] == [2, 1, 3]
    assert [label.id for label in spell("a b", VOCABULARY, None)] == [2, 3]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=270, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator(["the cat the cat", " cat the"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>")


def test_tokens_cover_all_characters_but_white_space(tokenizer) -> None:
    text = "the cat éaten 猫 cat"
    labels = token_labels(tokenizer, text, tokenizer(text)["input_ids"])
    covered = {i for label in labels for i in range(label.start, label.end)}
    assert covered == {i for i, character in enumerate(text) if not character.isspace()}
    with pytest.raises(ValueError, match="not those of the tokenizer alone"):
        token_labels(tokenizer, text, [1, 2])


def test_a_words_time_spans_its_labels_and_a_label_of_several_words_is_shared() -> None:
    text = "ab cd"
    labels = [Label(7, 0, 1), Label(8, 1, 5)]
    labels[1] = Label(8, 1, 5)
    frames = np.array([[1, 2], [2, 10]])
    assert word_times(text, [(0, 2), (3, 5)], labels, frames, 0.1, 5.0) == [
        Word("ab", 0.1, 0.4),
        Word("cd", 0.6, 1.0),
    ]


def test_no_word_ends_after_the_utterance_and_none_lacks_time() -> None:
    frames = np.array([[0, 1], [1, 4]])
    labels = [Label(1, 0, 1), Label(2, 2, 3)]
    assert word_times("a b", [(0, 1), (2, 3)], labels, frames, 0.1, 0.35)[1].end_s == 0.35
    with pytest.raises(Unusable, match="more characters than time"):
        word_times("a b", [(0, 1), (2, 3)], labels, frames, 0.1, 0.1)
    with pytest.raises(Unusable, match="nothing of the word 'b'"):
        word_times("a b", [(0, 1), (2, 3)], labels[:1], frames[:1], 0.1, 1.0)
