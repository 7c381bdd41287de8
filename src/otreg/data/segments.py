"""What a training row is made of: segments of text and audio, each with its speaker's role.

A row comes from a manifest line in one of three kinds:

    "transcribe"   one clip and its transcript; the processor puts its own prompt around them
    "chat"         Hugging Face chat messages, rendered by the language model's chat template
    "document"     plain text in which some spans are spoken; its text is tokenised as one piece

Supervised segments are those that the model learns to write: the assistant's turns of a chat, the
transcript, and the written spans of a document.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from otreg.data.audio_bytes import Audio
from otreg.data.utterance import Utterance

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Clip:
    """A piece of an audio file.

    Args:
        id: unique among the clips of a data set.
        audio: the file, or where its bytes are.
        text: what is said in it; "" where it is unknown.
        language: language code; "" where it is unknown.
        start_s: where it starts in the file, in seconds; None = at the file's start.
        end_s: where it ends; None = at the file's end.
        source: the manifest line that it comes from, quoted by errors.
    """

    id: str
    audio: Audio
    text: str = ""
    language: str = ""
    start_s: float | None = None
    end_s: float | None = None
    source: str | None = None

    @property
    def name(self) -> str:
        """How errors call this clip: its manifest line where it has one, and its id."""
        return f"{self.source}: utterance {self.id!r}" if self.source else f"utterance {self.id!r}"


@dataclass(frozen=True)
class Segment:
    """One piece of a row.

    Args:
        kind: "text" or "audio" ("units", discrete speech units as ids, has no reader yet).
        content: the text, the `Clip`, or the ids.
        role: whose turn it belongs to.
        supervised: whether the model learns to write it.
    """

    kind: Literal["text", "audio", "units"]
    content: str | Clip | tuple[int, ...]
    role: Role
    supervised: bool = False

    @property
    def text(self) -> str:
        """The text of a text segment, or the transcript of an audio segment."""
        if isinstance(self.content, Clip):
            return self.content.text
        return self.content if isinstance(self.content, str) else ""


@dataclass(frozen=True)
class Row:
    """The segments of one manifest line, in order.

    Args:
        id: the line's id.
        kind: see the module.
        segments: at least one.
        language: language code, for prompts that name it.
        name: how errors call the row.
        is_prompt: whether it is there to be gone on with: a document is then left open.
    """

    id: str
    kind: Literal["transcribe", "chat", "document"]
    segments: tuple[Segment, ...]
    language: str = ""
    name: str = ""
    is_prompt: bool = False

    @property
    def clips(self) -> list[Clip]:
        """The audio of the row, in order."""
        return [s.content for s in self.segments if isinstance(s.content, Clip)]

    @property
    def answer(self) -> str:
        """What the row's last supervised turn says: the reference of an evaluation."""
        last = [i for i, s in enumerate(self.segments) if not s.supervised]
        return "".join(s.text for s in self.segments[last[-1] + 1 if last else 0 :])

    def prompt(self) -> Row:
        """The row without its last answer, to generate from.

        Raises:
            ValueError: there is nothing before the answer.
        """
        end = len(self.segments)
        while end and self.segments[end - 1].supervised:
            end -= 1
        if not end:
            raise ValueError(
                "it has nothing before its answer, so there is nothing to generate from; put a user's "
                "turn or speech before it, or leave the row out"
            )
        kept = self.segments[:end]
        return Row(self.id, self.kind, kept, self.language, self.name, is_prompt=True)


def row_of(utterance: Utterance) -> Row:
    """The row of a manifest line: its messages where it has some, else "transcribe".

    Args:
        utterance: the line.

    Returns:
        Its row; every assistant turn is supervised.

    Raises:
        ValueError: the line has neither audio nor messages.
    """
    if utterance.messages is None:
        if utterance.audio is None:
            raise ValueError(f"{utterance.name} has neither audio nor messages; give one of them")
        segments = [Segment("audio", _own_clip(utterance), "user")]
        if utterance.text:
            segments.append(Segment("text", utterance.text, "assistant", supervised=True))
        return _row(utterance, "transcribe", segments)
    parts: list[Segment] = []
    num_clips = 0
    for message in utterance.messages:
        role: Role = message["role"]
        for part in message["content"]:
            if part["type"] == "text":
                parts.append(Segment("text", part["text"], role, role == "assistant"))
            else:
                parts.append(Segment("audio", _clip_of(utterance, part, num_clips), role))
                num_clips += 1
    return _row(utterance, "chat", parts)


def _row(
    utterance: Utterance,
    kind: Literal["transcribe", "chat", "document"],
    segments: Iterable[Segment],
) -> Row:
    return Row(utterance.id, kind, tuple(segments), utterance.language, utterance.name)


def _own_clip(utterance: Utterance) -> Clip:
    if utterance.audio is None:
        raise ValueError(
            f"{utterance.name}: its messages ask for the row's own audio, but it has none; give "
            "'audio', or an audio part with a path of its own"
        )
    return Clip(
        utterance.id,
        utterance.audio,
        utterance.text,
        utterance.language,
        utterance.start_s,
        utterance.end_s,
        utterance.source,
    )


def _clip_of(utterance: Utterance, part: Mapping[str, Any], number: int) -> Clip:
    """The clip of an audio part: the row's own, or one with a path of its own."""
    if part.get("audio") is None:
        return _own_clip(utterance)
    return Clip(
        f"{utterance.id}/{number}",
        Path(part["audio"]),
        part.get("text") or "",
        utterance.language,
        part.get("start_s"),
        part.get("end_s"),
        utterance.source,
    )
