"""The language model's examples: their layout, their shares, and the demo's draws as they always were."""

import hashlib
import re

import pytest

from otreg.synthetic.examples import (
    ASR,
    BOS,
    EOS,
    Exchange,
    draw_batches,
    read_exchanges,
    write_exchanges,
)
from otreg.synthetic.fit import MiniatureSettings
from otreg.synthetic.language_model import train_tokenizer
from otreg.synthetic.sentences import LANGUAGES, sentences

EXCHANGES = [Exchange("rojo azul", "reverse", "azul rojo"), Exchange("azul", "reverse", "azul")]


def examples(settings: MiniatureSettings, exchanges=()):
    texts = ["rojo azul", "azul rojo rojo", "schwarz"]
    tokenizer = train_tokenizer([*texts, "reverse"], 60)
    batches = draw_batches(texts, tokenizer, settings, 0, exchanges)
    return tokenizer, [example for batch in batches for example in batch]


def test_the_demos_draws_are_those_of_the_first_release():
    # Written by the former _language_model_batches at commit 86c9d8e, same arguments.
    texts = [text for language in LANGUAGES for text in sentences(language, "paired", 40, 0)]
    tokenizer = train_tokenizer(texts, 160)
    batches = draw_batches(texts, tokenizer, MiniatureSettings(language_model_steps=30), 0)
    digest = hashlib.sha256(repr(batches).encode()).hexdigest()
    assert digest == "ecc8bea45964d4162da6afe9eba55cf79f785d274b3d506eb04d69b3c14e1fed"


def test_shares_are_those_of_the_mixture():
    settings = MiniatureSettings(
        language_model_steps=60, random_tokens=0, mixture={"text": 1, "copy": 2, "answer": 3}
    )
    tokenizer, drawn = examples(settings, EXCHANGES)
    asr = tokenizer.get_vocab()[ASR]
    instruction = tokenizer("reverse", add_special_tokens=False)["input_ids"]
    counts = {"text": 0, "copy": 0, "answer": 0}
    for tokens, prompt in drawn:
        if asr not in tokens:
            counts["text"] += 1
        elif tokens[: prompt - 1][-len(instruction) :] == instruction:
            counts["answer"] += 1
        else:
            counts["copy"] += 1
    shares = {kind: count / len(drawn) for kind, count in counts.items()}
    assert shares == pytest.approx({"text": 1 / 6, "copy": 2 / 6, "answer": 3 / 6}, abs=0.04)


def test_an_answer_is_learned_and_its_question_is_not():
    settings = MiniatureSettings(
        language_model_steps=4, random_tokens=0, mixture={"answer": 1}, deletion=0, substitution=0,
        repetition=0,
    )  # fmt: skip
    tokenizer, drawn = examples(settings, EXCHANGES)
    seen = set()
    for tokens, prompt in drawn:
        question, answer = tokenizer.decode(tokens[:prompt]), tokenizer.decode(tokens[prompt:])
        seen.add((re.sub(r"<\w+>", "", question).strip(), re.sub(r"<\w+>", "", answer).strip()))
        assert tokens[0] == tokenizer.get_vocab()[BOS]
        assert tokens[prompt - 1] == tokenizer.get_vocab()[ASR]
        assert tokens[-1] == tokenizer.get_vocab()[EOS]
    assert seen == {("rojo azul reverse", "azul rojo"), ("azul reverse", "azul")}


def test_random_words_and_random_tokens_can_be_left_out():
    settings = MiniatureSettings(
        language_model_steps=20, mixture={"text": 1}, random_tokens=0, random_words=0
    )
    tokenizer, drawn = examples(settings)
    texts = {tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens, _ in drawn}
    assert texts == {"rojo azul", "azul rojo rojo", "schwarz"}


@pytest.mark.parametrize(
    ("mixture", "exchanges", "message"),
    [
        ({"txet": 1}, (), "unknown kind of example 'txet'; did you mean 'text'"),
        ({"text": -1}, (), "share of 'text' must not be negative"),
        ({"text": 0}, (), "add up to nothing"),
        ({"answer": 1}, (), "0 exchanges do not go together"),
        ({"text": 1}, EXCHANGES, "2 exchanges do not go together"),
    ],
)
def test_a_mixture_that_cannot_be_drawn_is_refused(mixture, exchanges, message):
    with pytest.raises(ValueError, match=message):
        examples(MiniatureSettings(language_model_steps=1, mixture=mixture), exchanges)


def test_exchanges_come_back_and_a_wrong_line_is_named(tmp_path):
    path = tmp_path / "exchanges.jsonl"
    write_exchanges(path, EXCHANGES)
    assert read_exchanges(path) == EXCHANGES
    for line in (
        '{"text": "a"}',
        "[1]",
        "nonsense",
        '{"text": "a", "instruction": "", "answer": "b"}',
    ):
        path.write_text('{"text": "a", "instruction": "b", "answer": "c"}\n' + line + "\n")
        with pytest.raises(ValueError, match=r"exchanges\.jsonl:2: "):
            read_exchanges(path)
    path.write_text("\n")
    with pytest.raises(ValueError, match="holds no exchange"):
        read_exchanges(path)
