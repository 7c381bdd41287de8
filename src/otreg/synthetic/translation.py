"""A toy language for the miniature: every English sentence of the grammars has one translation.

The toy language has words of its own (drawn once, by syllables, so that they never change) and a word
order of its own:

- the verb comes last, and its subject and object carry particles;
- adjectives and possessives follow their noun, then its number; "the" has no translation;
- what is a preposition in English follows its phrase;
- "and" follows what it joins; "not", "please", "does" and "why" become particles at the end.

    anna found the red lamp in the garden  ->  anna ga  garden in  lamp red wo  found

(with each word in its translation). So a translation is a function of the sentence, and a model that
translates has to know words, order and what belongs together.
"""

from __future__ import annotations

import random
import re
from functools import cache

from otreg.synthetic._lexicon import LEXICON
from otreg.synthetic.sentences import vocabulary

SUBJECT, OBJECT, QUESTION = "ga", "wo", "ka"  # particles; no word is as short

_CONSONANTS, _VOWELS = "ptkmnslr", "aiou"
_SLOTS_OF = {
    "noun": ("thing", "animals", "ground", "weather", "season", "hour", "family", "food", "drink",
             "day", "person", "place"),
    "adjective": ("colour", "price", "taste"),
    "number": ("number",),
    "verb": ("did", "moves", "motion"),
    "adverb": ("adverb",),
    "time": ("when",),
}  # fmt: skip
_CLASSES = {
    "article": "the a",
    "possessive": "my her our",
    "verb": "is was need put",
    "preposition": "in at near behind on under beside inside before without of",
    "and": "and",
    "final": "not please does why so there",
}


def _lexicon() -> dict[str, str]:
    """Return the class of every word of the English grammars."""
    fixed = {word: name for name, words in _CLASSES.items() for word in words.split()}
    classes = dict(fixed)
    slots = LEXICON["en"]["slots"]
    for name, members in _SLOTS_OF.items():
        for slot in members:
            for word in slots[slot].replace(",", " ").split():
                if word not in fixed:
                    classes[word] = name
    return classes


_CLASS_OF = _lexicon()


@cache
def toy_words() -> dict[str, str]:
    """Return the toy language's word for every English one; "the" has none, names have one too."""
    rng = random.Random("toy language")
    syllables = [consonant + vowel for consonant in _CONSONANTS for vowel in _VOWELS]
    words: dict[str, str] = {}
    taken = {SUBJECT, OBJECT, QUESTION, *vocabulary("en")}
    for english in sorted(_CLASS_OF):
        if english == "the":
            continue
        while True:
            word = "".join(rng.choice(syllables) for _ in range(rng.choice((2, 2, 3))))
            if word not in taken:
                break
        taken.add(word)
        words[english] = word
    return words


def translate(text: str) -> str:
    """Translate an English sentence of the grammars.

    Args:
        text: lower-case words of `otreg.synthetic.sentences`, separated by spaces.

    Returns:
        The toy language's words, separated by spaces.

    Raises:
        ValueError: a word that the English lexicon does not have, or a text without words.
    """
    words = text.split()
    unknown = [word for word in words if word not in _CLASS_OF]
    if unknown or not words:
        raise ValueError(
            f"cannot translate {text!r}: "
            + (f"{unknown[0]!r} is not in the English lexicon" if unknown else "it has no word")
            + "; sentences come from otreg.synthetic.sentences"
        )
    toy = toy_words()
    return " ".join(
        word if word in (SUBJECT, OBJECT, QUESTION) else toy[word] for word in _reorder(words)
    )


# One letter a class, so that a sentence's phrases are a regular expression over its classes.
_LETTERS = {
    "article": "d", "possessive": "p", "number": "c", "adjective": "a", "noun": "n",
    "preposition": "r", "and": "k", "verb": "v", "adverb": "m", "time": "t", "final": "f",
}  # fmt: skip
_NOUN_PHRASE = "[dp]?c?a*n"
_PHRASE = re.compile(
    f"(?P<oblique>r{_NOUN_PHRASE}(?:k{_NOUN_PHRASE})*)|(?P<noun>{_NOUN_PHRASE}(?:k{_NOUN_PHRASE})*)"
    "|(?P<quality>a(?:ka)*)|(?P<verb>v)|(?P<adverb>m)|(?P<time>t)|(?P<final>f)|(?P<rest>.)"
)


def _reorder(words: list[str]) -> list[str]:
    """Bring English words, and the particles, into the toy language's order."""
    classes = "".join(_LETTERS[_CLASS_OF[word]] for word in words)
    places: dict[str, list[str]] = {
        name: [] for name in ("time", "subject", "oblique", "object", "adverb", "quality", "verb")
    }
    final: list[str] = []
    for match in _PHRASE.finditer(classes):
        phrase, kind = words[match.start() : match.end()], match.lastgroup
        if kind == "noun":
            role, particle = ("object", OBJECT) if places["subject"] else ("subject", SUBJECT)
            places[role] += [*_joined(phrase), particle]
        elif kind == "oblique" and phrase[0] == "of" and places["subject"]:
            places["subject"][-1:] = [*_joined(phrase[1:]), "of", places["subject"][-1]]
        elif kind == "oblique":
            places["oblique"] += [*_joined(phrase[1:]), phrase[0]]
        elif kind == "quality":
            places["quality"] += _joined(phrase)
        elif kind == "final":
            final += phrase
        elif kind in places:
            places[kind] += phrase
        else:  # an article or "and" that belongs to no phrase
            places["adverb"] += [word for word in phrase if word != "the"]
    question = [QUESTION] if {"does", "why"} & set(final) else []
    return [*(word for place in places.values() for word in place), *final, *question]


def _joined(phrase: list[str]) -> list[str]:
    """Order the parts of "X and Y": X Y and, each with its noun first and without "the"."""
    parts: list[list[str]] = [[]]
    for word in phrase:
        if word == "and":
            parts.append([])
        else:
            parts[-1].append(word)
    ordered = []
    for part in parts:
        head = [word for word in part if _CLASS_OF[word] == "noun"]
        after = [
            word
            for name in ("adjective", "number", "possessive", "article")
            for word in part
            if _CLASS_OF[word] == name and word != "the"
        ]
        ordered += head + after
    return ordered + ["and"] * (len(parts) - 1)
