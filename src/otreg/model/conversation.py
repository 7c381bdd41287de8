"""Chat messages to the examples of a prompt: what transformers' pipelines hand to a processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from otreg.data.audio import load_audio
from otreg.data.dataset import Example, Processor
from otreg.data.segments import Clip, Row, Segment
from otreg.names import nearest

Messages = Sequence[Mapping[str, Any]]
ROLES = ("system", "user", "assistant")
_FILE_KEYS = ("audio", "path", "url")  # transformers' chats name an audio file under any of them

_OPTIONS = {
    "add_generation_prompt": True,
    "tokenize": True,  # audio has no spelling as text
    "return_dict": True,
    "return_tensors": "pt",
}


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options of transformers' apply_chat_template that batches to generate from do not have.

    Args:
        options: as given; four have one value here, the others must be empty or False.

    Raises:
        ValueError: another value, naming the option.
    """
    for name, value in options.items():
        if value != _OPTIONS[name] if name in _OPTIONS else value:
            only = f"only be {_OPTIONS[name]!r}" if name in _OPTIONS else "not be given"
            raise ValueError(
                f"apply_chat_template() makes batches to generate from, so {name} can {only}; got "
                f"{value!r}"
            )


def prompt_examples(
    processor: Processor, conversation: Messages | Sequence[Messages]
) -> list[Example]:
    """Make examples, to generate the next turn from, of one conversation or of several.

    Args:
        processor: computes the features of the audio.
        conversation: [{"role": …, "content": str or parts}, …] or a list of such lists. A part is
            {"type": "text", "text": …} or {"type": "audio", "audio": …}, the audio a file's path or
            a (samples,) array, mono, at 16 kHz. Audio alone asks for its transcript.

    Returns:
        One example per conversation, as `otreg.data.SpeechTextCollator` takes them.

    Raises:
        ValueError: an unknown role or kind of part, a part without its content, or a conversation
            that does not end with the user's turn.
        AudioError: audio that cannot be decoded.
    """
    several = bool(conversation) and not isinstance(conversation[0], Mapping)
    conversations: Any = conversation if several else [conversation]
    return [_example(processor, number, messages) for number, messages in enumerate(conversations)]


def _example(processor: Processor, number: int, messages: Messages) -> Example:
    if not messages or messages[-1].get("role") != "user":
        raise ValueError(
            "a conversation must end with the user's turn, which the model answers; got "
            f"{[message.get('role') for message in messages]}"
        )
    segments: list[Segment] = []
    features: list[np.ndarray] = []
    for turn, message in enumerate(messages):
        role = message.get("role")
        if role not in ROLES:
            raise ValueError(f"unknown role {role!r}; {nearest(str(role), ROLES)}")
        content = message.get("content")
        parts: Any = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for index, part in enumerate(parts or ()):
            place = f"messages[{turn}], part {index}"
            if not isinstance(part, Mapping):
                raise ValueError(
                    f'{place}: expected an object such as {{"type": "text", "text": "…"}}; got {part!r}'
                )
            if part.get("type") == "text":
                segments.append(Segment("text", _text(part, place), role, role == "assistant"))
                continue
            clip, samples = _clip(part, place, f"{number}/{len(features)}")
            features.append(processor.features(samples))
            segments.append(Segment("audio", clip, role))
    if not segments:
        raise ValueError("a conversation needs text or audio; got messages without content")
    kind: Any = "transcribe" if [segment.kind for segment in segments] == ["audio"] else "chat"
    row = Row(str(number), kind, tuple(segments), name=f"conversation {number}")
    return {"id": row.id, "row": row, "input_features": features}


def _text(part: Mapping[str, Any], place: str) -> str:
    """What a text part says."""
    text = part.get("text")
    if not isinstance(text, str):
        raise ValueError(f"{place}: a text part needs 'text', a string; got {text!r}")
    return text


def _clip(part: Mapping[str, Any], place: str, identity: str) -> tuple[Clip, np.ndarray]:
    """The clip of an audio part and its samples."""
    kind = part.get("type")
    if kind != "audio":
        raise ValueError(f"{place}: a part's type must be 'text' or 'audio'; got {kind!r}")
    audio = next((part[key] for key in _FILE_KEYS if part.get(key) is not None), None)
    if isinstance(audio, np.ndarray):
        return Clip(identity, Path()), audio
    if not isinstance(audio, str | Path) or str(audio).startswith(("http://", "https://")):
        raise ValueError(
            f"{place}: an audio part needs 'audio': the path of a file, or a (samples,) array at 16 "
            f"kHz; got {audio!r}"
        )
    clip = Clip(identity, Path(audio))
    return clip, load_audio(clip)
