"""Rows to token ids: the language model's chat template, or a plain one, around text and clips.

What a user wrote (transcripts, parts of messages) is tokenised apart from the template around it and
once: special tokens spelled in it are text like any other, and the ids that stand in a row are those
that its text twin and the objectives' targets have.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from otreg.data.segments import Clip, Row, Segment
from otreg.model.prompts import encode

_MARK = "\u2063<|part:{}|>\u2063"  # stands for a part while a chat template is rendered
_MARKS = re.compile("\u2063<\\|part:(\\d+)\\|>\u2063")


@dataclass
class RenderedRow:
    """The ids of a row while it is put together.

    Args:
        audio_token_id: the placeholder for one speech frame.
        ids: token ids.
        labels: the id where it is supervised, -100 elsewhere.
        clips: first position and number of each clip's placeholders.
        text_ids: each clip's transcript; empty where it is unknown.
    """

    audio_token_id: int
    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    clips: list[tuple[int, int]] = field(default_factory=list)
    text_ids: list[list[int]] = field(default_factory=list)

    def add(self, ids: Sequence[int], *, supervised: bool = False) -> None:
        """Append ids."""
        self.ids += ids
        self.labels += ids if supervised else [-100] * len(ids)

    def add_clip(self, num_frames: int, text_ids: Sequence[int]) -> None:
        """Append the placeholders of a clip."""
        if num_frames < 1:
            raise ValueError(
                f"a clip needs at least one speech frame; got {num_frames}: the audio is too short "
                "for this encoder and adapter"
            )
        self.clips.append((len(self.ids), num_frames))
        self.text_ids.append(list(text_ids))
        self.add([self.audio_token_id] * num_frames)

    def as_dict(self) -> dict[str, Any]:
        """The row as the collator takes it."""
        return {
            "input_ids": self.ids,
            "labels": self.labels,
            "clips": self.clips,
            "text_ids": self.text_ids,
        }


def closing_ids(tokenizer: Any, text: str, eos_token_id: int) -> tuple[list[int], list[int]]:
    """How a chat template ends a turn: the ids that are learnt, and those that only follow.

    Learnt is everything up to the first end-of-sequence token; where the template has none, up to its
    first special token, and an end-of-sequence token behind it, for generation must stop there.

    Args:
        tokenizer: of the language model.
        text: what the template puts behind the turn's content.
        eos_token_id: ends a sequence.
    """
    ids = encode(tokenizer, text)
    if eos_token_id in ids:
        end = ids.index(eos_token_id) + 1
        return ids[:end], ids[end:]
    known = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special = [i for i, token in enumerate(ids) if token in known]
    end = special[0] + 1 if special else 0
    return [*ids[:end], eos_token_id], ids[end:]


def render_chat(
    tokenizer: Any, row: Row, num_frames: Sequence[int], out: RenderedRow, eos_token_id: int
) -> None:
    """Render chat messages by the tokenizer's chat template.

    The assistant's turns are found by rendering prefixes of the conversation.

    Raises:
        ValueError: the template loses, repeats or reorders a part, or renders a prefix of the
            conversation differently from the whole.
    """
    turns = _turns(row.segments)
    messages = [
        {"role": turn[0].role, "content": "".join(_MARK.format(s) for s in _numbers(turns, i))}
        for i, turn in enumerate(turns)
    ]
    is_open = turns[-1][0].role != "assistant"
    whole = template_text(tokenizer, messages, is_open)
    found = [int(number) for number in _MARKS.findall(whole)]
    if found != list(range(len(row.segments))):
        raise ValueError(
            f"the chat template shows the parts {found} of the messages where 0 … "
            f"{len(row.segments) - 1} were given; it loses, repeats or reorders them: use another "
            "template"
        )
    frames = iter(num_frames)
    at = 0
    for i, turn in enumerate(turns):
        starts = _prefix(tokenizer, messages[:i], whole, True) if turn[0].supervised else at
        out.add(encode(tokenizer, whole[at:starts]))
        at = starts
        for number, segment in zip(_numbers(turns, i), turn, strict=True):
            mark = _MARK.format(number)
            found_at = whole.index(mark, at)
            out.add(encode(tokenizer, whole[at:found_at]), supervised=turn[0].supervised)
            _add_content(tokenizer, segment, frames, out)
            at = found_at + len(mark)
        if turn[0].supervised:
            end = _prefix(tokenizer, messages[: i + 1], whole, False)
            learnt, rest = closing_ids(tokenizer, whole[at:end], eos_token_id)
            out.add(learnt, supervised=True)
            if i + 1 < len(turns):
                out.add(rest)
            at = end
    if is_open:
        out.add(encode(tokenizer, whole[at:]))


def template_text(tokenizer: Any, messages: Sequence[dict[str, str]], is_open: bool) -> str:
    """Messages rendered by the chat template; open = the assistant's turn comes next."""
    key = tuple((message["role"], message["content"]) for message in messages)
    return _rendered(tokenizer, tokenizer.chat_template, key, is_open)


@functools.lru_cache(maxsize=256)  # contents are marks here, so rows of one shape render alike
def _rendered(
    tokenizer: Any, template: str, messages: tuple[tuple[str, str], ...], is_open: bool
) -> str:
    text: str = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in messages],
        chat_template=template,
        tokenize=False,
        add_generation_prompt=is_open,
        enable_thinking=False,  # templates that know it then leave the answer's place empty
    )
    return text


def render_plain(
    tokenizer: Any,
    row: Row,
    num_frames: Sequence[int],
    out: RenderedRow,
    *,
    separator: Sequence[int],
    eos_token_id: int,
) -> None:
    """Render chat messages without a chat template: <bos> user <separator> assistant <eos> ….

    Args:
        tokenizer: its bos token opens the row, where it has one.
        row: the messages.
        num_frames: speech frames of each clip.
        out: what to add to.
        separator: ids before each of the assistant's turns.
        eos_token_id: ends each of them.
    """
    frames = iter(num_frames)
    if tokenizer.bos_token_id is not None:
        out.add([tokenizer.bos_token_id])
    for turn in _turns(row.segments):
        supervised = turn[0].supervised
        if supervised:
            out.add(separator)
        for segment in turn:
            _add_content(tokenizer, segment, frames, out)
        if supervised:
            out.add([eos_token_id], supervised=True)
    if not row.segments[-1].supervised:
        out.add(separator)


def render_document(
    tokenizer: Any, row: Row, num_frames: Sequence[int], out: RenderedRow, *, eos_token_id: int
) -> None:
    """Render a document: <bos>, its spans in order, <eos>; its text is tokenised as one piece.

    A prompt has no <eos>: what is generated goes on with the document.

    A token belongs to the span in which it ends, so written spans and spoken ones share the ids of
    the whole text.

    Raises:
        ValueError: a tokenizer without character offsets.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            "interleaved rows need a fast tokenizer (with character offsets), got "
            f"{type(tokenizer).__name__}; load it with AutoTokenizer"
        )
    text = "".join(segment.text for segment in row.segments)
    encoded = tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    if tokenizer.bos_token_id is not None:
        out.add([tokenizer.bos_token_id])
    frames = iter(num_frames)
    token = end = 0
    for segment in row.segments:
        end += len(segment.text)
        first = token
        while token < len(ids) and offsets[token][1] <= end:
            token += 1
        if isinstance(segment.content, Clip):
            out.add_clip(next(frames), ids[first:token])
        else:
            out.add(ids[first:token], supervised=segment.supervised)
    if not row.is_prompt:
        out.add([eos_token_id], supervised=True)


def _turns(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Neighbouring segments of one role make one turn."""
    turns: list[list[Segment]] = []
    for segment in segments:
        if turns and turns[-1][0].role == segment.role:
            turns[-1].append(segment)
        else:
            turns.append([segment])
    return turns


def _numbers(turns: Sequence[Sequence[Segment]], index: int) -> range:
    """The numbers of a turn's segments within the row."""
    first = sum(len(turn) for turn in turns[:index])
    return range(first, first + len(turns[index]))


def _prefix(tokenizer: Any, messages: list[dict[str, str]], whole: str, is_open: bool) -> int:
    """Where a prefix of the conversation ends in the whole."""
    text = template_text(tokenizer, messages, is_open)
    if not whole.startswith(text):
        raise ValueError(
            "the chat template renders the first messages differently when more follow, so the "
            f"assistant's turns cannot be found: expected {whole[: len(text)]!r} to start with "
            f"{text!r}; use another chat template"
        )
    return len(text)


def _add_content(tokenizer: Any, segment: Segment, frames: Any, out: RenderedRow) -> None:
    if segment.kind == "units":
        raise ValueError("this processor has no vocabulary for speech units; give text or audio")
    if isinstance(segment.content, Clip):
        text = segment.content.text
        out.add_clip(next(frames), encode(tokenizer, text, special_tokens=False))
        return
    ids = encode(tokenizer, segment.text, special_tokens=False)
    if segment.supervised and not ids:
        raise ValueError(f"the answer {segment.text!r} has no tokens; leave the row out")
    out.add(ids, supervised=segment.supervised)
