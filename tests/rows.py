"""Rows as a manifest gives them, made in a line."""

from pathlib import Path

from otreg.data.segments import Clip, Row, Segment


def transcribe_row(text="", *, identity="u", language=""):
    """A clip and, where there is one, its transcript."""
    segments = [Segment("audio", Clip(identity, Path("a.wav"), text, language), "user")]
    if text:
        segments.append(Segment("text", text, "assistant", supervised=True))
    return Row(identity, "transcribe", tuple(segments), language, f"utterance {identity!r}")


def chat_row(*segments, identity="c"):
    """Messages: ("role", "text") or ("role", Clip) each; the assistant's are supervised."""
    made = [
        Segment("audio" if isinstance(c, Clip) else "text", c, role, role == "assistant")
        for role, c in segments
    ]
    return Row(identity, "chat", tuple(made), "", f"utterance {identity!r}")


def clip(text="", *, identity="k"):
    """A clip that no test decodes."""
    return Clip(identity, Path("a.wav"), text)
