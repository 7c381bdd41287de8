"""Sentences for the miniature: template grammars in English, Spanish and German.

Each language has three families of templates. `paired` is what speech is paired with in training;
`development` and `test` are never spoken in training: their templates differ from those of `paired`
and from each other's, and about a fifth of their words are in no paired sentence, so an error rate
on `test` is read on sentences that no choice was made on. `salad` draws words of the whole lexicon in
random order: text for learning to spell and to copy, which favours no family.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection

from otreg.synthetic._lexicon import LEXICON

FAMILIES = ("paired", "development", "test")
LANGUAGES = tuple(LEXICON)

_SLOT = re.compile(r"\{(\w+)\}")


def sentence(language: str, family: str, rng: random.Random) -> str:
    """Draw one sentence of a template family.

    Args:
        language: one of `LANGUAGES`.
        family: one of `FAMILIES`, or "salad" for 3 to 8 random words of the language.
        rng: source of randomness.

    Returns:
        Lower-case words separated by single spaces.

    Raises:
        ValueError: for an unknown language or family.
    """
    if language not in LEXICON:
        raise ValueError(f"unknown language {language!r}: the lexicon has {', '.join(LANGUAGES)}")
    lexicon = LEXICON[language]
    if family == "salad":
        words = vocabulary(language)
        return " ".join(rng.choice(words) for _ in range(rng.randint(3, 8)))
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}: expected salad, {', '.join(FAMILIES)}")
    template = rng.choice(lexicon["templates"][family])
    return _SLOT.sub(lambda match: rng.choice(lexicon["slots"][match[1]].split(",")), template)


def sentences(
    language: str,
    family: str,
    count: int,
    seed: int | str,
    *,
    exclude: Collection[str] = (),
) -> list[str]:
    """Draw `count` different sentences, none of them in `exclude`; see `sentence`.

    Raises:
        ValueError: if the family cannot give `count` different sentences.
    """
    rng = random.Random(f"{seed} {language} {family}")
    drawn: dict[str, None] = {}
    for _ in range(count * 50):
        if len(drawn) == count:
            break
        text = sentence(language, family, rng)
        if text not in exclude:
            drawn.setdefault(text)
    if len(drawn) < count:
        raise ValueError(
            f"{language} {family}: asked for {count} different sentences, found {len(drawn)}; "
            "ask for fewer or widen the templates"
        )
    return list(drawn)


def vocabulary(language: str, family: str | None = None) -> list[str]:
    """Return the sorted words that a language's templates (of one family, or of all) can produce."""
    lexicon = LEXICON[language]
    families = FAMILIES if family is None else (family,)
    words: set[str] = set()
    for template in (t for name in families for t in lexicon["templates"][name]):
        words.update(_SLOT.sub(" ", template).split())
        for slot in _SLOT.findall(template):
            words.update(lexicon["slots"][slot].replace(",", " ").split())
    return sorted(words)
