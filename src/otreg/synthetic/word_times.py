"""When each word of synthetic speech is said, from espeak-ng's own events: exact, no aligner."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Sequence

from otreg.synthetic.espeak import PHONEME, WORD, Event, Speech

_PAUSE = "_"  # what the mnemonics of pauses start with


def word_samples(
    speech: Speech,
    text: str,
    positions: Sequence[int],
    num_phonemes: Callable[[str], int],
) -> list[tuple[int, int]]:
    """Return the first sample of every word, and the sample that comes after its last.

    A word starts where its event says. It ends where the next word starts, or where a pause
    begins before that. Some pairs of words are one entry in espeak-ng's dictionary ("in the",
    "there was") and have one event: their time is cut at the phoneme that starts the second.

    Args:
        speech: what was spoken.
        text: its words, separated by spaces.
        positions: of each word in what was spoken (`Event.position`).
        num_phonemes: how many phonemes a word has; asked for words without an event alone.

    Raises:
        RuntimeError: the events do not belong to the words of the text one to one: it holds
            numbers or signs, of which espeak-ng makes several words, or none.
    """
    words = text.split()
    starts = {event.position: event.sample for event in speech.events if event.kind == WORD}
    num_events = sum(event.kind == WORD for event in speech.events)
    known = [position in starts for position in positions]
    if (
        len(positions) != len(words)
        or num_events != sum(known)
        or not all(known[:1])
        or any(not (one or other) for one, other in itertools.pairwise(known))
    ):
        raise RuntimeError(
            f"espeak-ng's {num_events} word events do not match the {len(words)} words of {text!r}; "
            "write numbers out, and leave out signs that stand alone"
        )
    phonemes = [event for event in speech.events if event.kind == PHONEME]
    begins: list[int] = []
    for index, position in enumerate(positions):
        if known[index]:
            begins.append(starts[position])
            continue
        own = [p for p in _of_word(phonemes, positions[index - 1]) if not _is_pause(p)]
        first, second = num_phonemes(words[index - 1]), num_phonemes(words[index])
        cut = round(len(own) * first / max(first + second, 1))
        if not 0 < cut < len(own):
            raise RuntimeError(
                f"{words[index - 1]!r} and {words[index]!r} of {text!r} are one word to espeak-ng, "
                f"of {len(own)} phonemes, which cannot be cut in two"
            )
        begins.append(own[cut].sample)
    pauses = sorted(event.sample for event in phonemes if _is_pause(event))
    ends = []
    for begin, following in zip(begins, [*begins[1:], len(speech.samples)], strict=True):
        index = bisect.bisect_right(pauses, begin)
        ends.append(min([following, *pauses[index : index + 1]]))
    return list(zip(begins, ends, strict=True))


def _of_word(phonemes: Sequence[Event], position: int) -> list[Event]:
    """Return the phonemes of the word at a position."""
    return [event for event in phonemes if event.position == position]


def _is_pause(event: Event) -> bool:
    return event.phoneme.startswith(_PAUSE)
