"""Interleaving: a spoken text becomes a document whose spans are written and spoken in turn."""

from __future__ import annotations

import random
from dataclasses import dataclass

from otreg.data.segments import Clip, Row, Segment
from otreg.data.utterance import Utterance


@dataclass(frozen=True)
class Interleaving:
    """Cut an utterance at word times into written and spoken spans, alternating.

    Which kind comes first and the length of each span are drawn by (seed, id of the utterance)
    alone, so the same cuts come back in every epoch, run and process.

    Args:
        text_words: fewest and most words of a written span.
        speech_words: fewest and most words of a spoken span.
        seed: of the draws.

    Raises:
        ValueError: a span of no words, or a range upside down.

    Source: SALAD (arXiv 2510.13632): spans of 10 to 30 written and 5 to 15 spoken words.
    """

    text_words: tuple[int, int] = (10, 30)
    speech_words: tuple[int, int] = (5, 15)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("text_words", "speech_words"):
            low, high = getattr(self, name)
            if not 1 <= low <= high:
                raise ValueError(
                    f"{name} must be two numbers, 1 <= fewest <= most, got {[low, high]}"
                )

    def __call__(self, utterance: Utterance) -> Row:
        """The document of an utterance; every word is in one span, written spans are supervised.

        A row without audio is a document as a whole: the text of its assistant's turns.

        Raises:
            ValueError: the utterance has no word times, or they are not the words of its text.
        """
        if utterance.audio is None:
            return _written(utterance)
        words = utterance.words
        if words is None:
            raise ValueError(
                f"{utterance.name} has no word times to cut at; make them with `otreg prepare words`"
            )
        pieces = text_pieces(utterance)
        rng = random.Random(f"{self.seed} {utterance.id}")
        spoken = rng.random() < 0.5
        segments: list[Segment] = []
        first = 0
        offset = utterance.start_s or 0.0
        while first < len(words):
            length = rng.randint(*(self.speech_words if spoken else self.text_words))
            last = min(first + length, len(words))
            text = "".join(pieces[first:last])
            if spoken:
                # From the end of the word before to the start of the word after: silence between
                # two words belongs to the earlier one, so that spoken spans never overlap.
                start_s = offset + words[first].start_s
                end_s = offset + words[last].start_s if last < len(words) else utterance.end_s
                identity = f"{utterance.id}/{first}-{last}"
                clip = Clip(
                    identity,
                    utterance.audio,
                    text,
                    utterance.language,
                    start_s,
                    end_s,
                    utterance.source,
                )
                segments.append(Segment("audio", clip, "user"))
            else:
                segments.append(Segment("text", text, "assistant", supervised=True))
            first, spoken = last, not spoken
        return Row(utterance.id, "document", tuple(segments), utterance.language, utterance.name)


def _written(utterance: Utterance) -> Row:
    """A row of text alone as a document."""
    turns = [m["content"] for m in utterance.messages or () if m["role"] == "assistant"]
    text = " ".join(part["text"] for turn in turns for part in turn)
    if not text:
        raise ValueError(f"{utterance.name} has neither audio nor a turn of the assistant to learn")
    segment = Segment("text", text, "assistant", supervised=True)
    return Row(utterance.id, "document", (segment,), utterance.language, utterance.name)


def text_pieces(utterance: Utterance) -> list[str]:
    """The text cut behind each word and its punctuation, so that the pieces together are the text.

    Raises:
        ValueError: the words are not those of the text.
    """
    assert utterance.words is not None
    text, ends = utterance.text, []
    at = 0
    for word in utterance.words:
        found = text.find(word.word, at)
        if found < 0 or any(character.isalnum() for character in text[at:found]):
            raise ValueError(
                f"{utterance.name}: its words are not the words of its text: after "
                f"{text[:at]!r} expected {word.word!r}, found {text[at:].split()[:1]}; make the "
                "words again with `otreg prepare words`"
            )
        at = found + len(word.word)
        while at < len(text) and not (text[at].isalnum() or text[at].isspace()):
            at += 1
        ends.append(at)
    ends[-1] = len(text)
    return [text[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
