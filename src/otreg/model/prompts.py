"""Prompts: token ids around the place of the speech, from a chat template or a plain one."""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Any

DEFAULT_TEMPLATE = "{bos}{audio}{sep}"
DEFAULT_INSTRUCTION = "Transcribe the speech."
_FIELDS = ("bos", "audio", "sep", "instruction", "language")
_AUDIO_MARK = "\u2063<|speech|>\u2063"  # stands for the audio while a chat template is rendered


@dataclass(frozen=True)
class Prompt:
    """Token ids before and after the speech."""

    before: list[int]
    after: list[int]


def check_template(template: str) -> None:
    """Check a prompt template.

    Args:
        template: text with the fields {bos} {audio} {sep} {instruction} {language}.

    Raises:
        ValueError: an unknown field, or {audio} not exactly once.
    """
    fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
    unknown = [field for field in fields if field not in _FIELDS]
    if unknown or fields.count("audio") != 1:
        wrong = f"has the unknown field {{{unknown[0]}}}" if unknown else "needs {audio} once"
        raise ValueError(
            f"the prompt template {template!r} {wrong}; the fields are "
            f"{' '.join('{' + field + '}' for field in _FIELDS)}"
        )


def plain_prompt(
    tokenizer: Any, template: str, *, separator: str, instruction: str, language: str | None
) -> Prompt:
    """Build a prompt from a template.

    Args:
        tokenizer: of the language model.
        template: see `check_template`; {bos} is the tokenizer's bos token, nothing without one.
        separator: for {sep}: a token of the vocabulary, or text.
        instruction: for {instruction}.
        language: for {language}; None = nothing.

    Returns:
        The prompt's ids.
    """
    check_template(template)
    parts: list[list[int]] = [[], []]
    side, run = 0, ""
    vocabulary = tokenizer.get_vocab()

    def flush() -> None:
        nonlocal run
        parts[side] += encode(tokenizer, run)
        run = ""

    for literal, field, _, _ in string.Formatter().parse(template):
        run += literal
        if field == "instruction":
            run += instruction
        elif field == "language":
            run += language or ""
        elif field == "sep" and separator not in vocabulary:
            run += separator
        elif field is not None:
            flush()
            if field == "bos" and tokenizer.bos_token_id is not None:
                parts[side].append(tokenizer.bos_token_id)
            elif field == "sep":
                parts[side].append(vocabulary[separator])
            elif field == "audio":
                side = 1
    flush()
    return Prompt(*parts)


def chat_prompt(tokenizer: Any, *, instruction: str, language: str | None) -> Prompt:
    """Build a prompt from the chat template of an instruction-tuned language model.

    The user's turn is the speech, a line break and the instruction; the assistant's turn is open.

    Args:
        tokenizer: with a chat template.
        instruction: may hold {language}.
        language: for {language} in the instruction; None = nothing.

    Returns:
        The prompt's ids.

    Raises:
        ValueError: the template lost or repeated the user's turn.
    """
    content = f"{_AUDIO_MARK}\n{instruction.replace('{language}', language or '')}"
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    pieces = text.split(_AUDIO_MARK)
    if len(pieces) != 2:
        raise ValueError(
            f"the chat template shows the user's turn {len(pieces) - 1} times, not once; set "
            f"prompt_template, for instance {DEFAULT_TEMPLATE!r}"
        )
    return Prompt(encode(tokenizer, pieces[0]), encode(tokenizer, pieces[1]))


def default_separator(tokenizer: Any) -> str:
    """Choose what stands before a transcript: ``<asr>`` if that is a token, else a line break."""
    if "<asr>" in tokenizer.get_vocab():
        return "<asr>"
    ids = encode(tokenizer, "\n")
    return "" if not ids or tokenizer.unk_token_id in ids else "\n"


def encode(tokenizer: Any, text: str, *, special_tokens: bool = True) -> list[int]:
    """Tokenise text without adding bos or eos.

    Args:
        tokenizer: Hugging Face's.
        text: may be empty.
        special_tokens: the spelling of a special token in the text is that token (a template's);
            False = it is text like any other (a transcript's).
    """
    if not text:
        return []
    options = {} if special_tokens else {"split_special_tokens": True}
    return tokenizer(text, add_special_tokens=False, **options)["input_ids"]
