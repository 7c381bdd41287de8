"""Prompts: token ids around the place of the speech, from a chat template or a plain one."""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Any

DEFAULT_TEMPLATE = "{bos}{audio}{sep}"
DEFAULT_INSTRUCTION = "Transcribe the speech."
_FIELDS = ("bos", "audio", "sep", "instruction", "language")


@dataclass(frozen=True)
class Prompt:
    """Token ids around the speech.

    Args:
        before: before the speech.
        after: between the speech and the transcript.
        closing: what ends the transcript, the end-of-sequence token last.
    """

    before: list[int]
    after: list[int]
    closing: list[int]


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
    tokenizer: Any,
    template: str,
    *,
    separator: str,
    instruction: str,
    language: str | None,
    eos_token_id: int,
) -> Prompt:
    """Build a prompt from a template.

    Args:
        tokenizer: of the language model.
        template: see `check_template`; {bos} is the tokenizer's bos token, nothing without one.
        separator: for {sep}: a token of the vocabulary, or text.
        instruction: for {instruction}.
        language: for {language}; None = nothing.
        eos_token_id: ends a transcript.

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
    return Prompt(parts[0], parts[1], [eos_token_id])


def separator_ids(tokenizer: Any, separator: str) -> list[int]:
    """The ids of a separator: one where it is a token of the vocabulary, else those of its text."""
    vocabulary = tokenizer.get_vocab()
    return [vocabulary[separator]] if separator in vocabulary else encode(tokenizer, separator)


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
