"""The normalisers that published error rates are made with, beside our own.

    otreg      `otreg.evaluation.wer.normalize_text`; the default
    whisper    Whisper's: its English normaliser for English, its basic one for all other languages
    basic      Whisper's basic normaliser for every language

Whisper's are transformers' own code, so their name in results.json goes with transformers' version.
Error rates of different normalisers cannot be compared, and `merge_results` refuses to join them.

Source:
    Radford et al. 2022, Robust Speech Recognition via Large-Scale Weak Supervision, arXiv 2212.04356,
    appendix C. Two deviations: text is stripped at both ends, and where characters are the words the
    spaces go, which counts what their spaces between all letters count.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from otreg.evaluation.wer import BASIC_NORMALIZER, Normalizer
from otreg.languages import is_character_language, primary
from otreg.names import nearest

NORMALIZERS = ("otreg", "whisper", "basic")
"""The names that `find_normalizer` and `otreg evaluate --normalizer` take."""


def find_normalizer(name: str, *, spelling_map: str | Path | None = None) -> Normalizer:
    """The normaliser of a name.

    Args:
        name: one of `NORMALIZERS`.
        spelling_map: for "whisper": a JSON file of British and American spellings, such as the
            `normalizer.json` that stands beside every Whisper checkpoint of OpenAI's; no installed
            package has it. None = spellings stay as they are, and the name says so.

    Raises:
        ValueError: another name, a map for a normaliser that takes none, or a file that is no map.

    Example:
        >>> whisper = find_normalizer("whisper")
        >>> whisper.name, whisper("Mr. Brown won't pay twenty-one dollars, um.", "en")
        ('whisper-no-spelling', 'mister brown will not pay $21')
    """
    if name not in NORMALIZERS:
        raise ValueError(f"unknown normaliser {name!r}; {nearest(name, NORMALIZERS)}")
    if spelling_map is not None and name != "whisper":
        raise ValueError(
            f"a spelling map belongs to the normaliser 'whisper', received one for {name!r}; "
            "drop one of the two"
        )
    if name == "otreg":
        return BASIC_NORMALIZER
    import transformers
    from transformers.models.whisper.english_normalizer import (
        BasicTextNormalizer,
        EnglishTextNormalizer,
    )

    version = f"transformers-{transformers.__version__}"
    basic = BasicTextNormalizer()
    if name == "basic":
        return Normalizer("whisper-basic", version, _by_language(basic, basic))
    spellings: Mapping[str, str] = {}
    if spelling_map is None:
        title = "whisper-no-spelling"
    else:
        spellings = read_spelling_map(spelling_map)
        title = f"whisper-spelling-{_digest(spellings)}"
    return Normalizer(title, version, _by_language(EnglishTextNormalizer(spellings), basic))


def read_spelling_map(path: str | Path) -> dict[str, str]:
    """Read a JSON object from British to American spellings.

    Raises:
        ValueError: no such file, or not an object of strings; the file is named.
    """
    path = Path(path)
    remedy = "expected the normalizer.json of a Whisper checkpoint, an object of strings"
    if not path.is_file():
        raise ValueError(f"no such spelling map: {str(path)!r}; {remedy}")
    try:
        spellings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"spelling map {str(path)!r}: {remedy}, received: {error}") from error
    if not isinstance(spellings, dict) or not spellings:
        raise ValueError(f"spelling map {str(path)!r}: {remedy}, received none")
    for word, spelling in spellings.items():
        if not isinstance(spelling, str):
            raise ValueError(
                f"spelling map {str(path)!r}: {remedy}, received {spelling!r} for {word!r}"
            )
    return spellings


def _by_language(
    english: Callable[[str], str], other: Callable[[str], str]
) -> Callable[[str, str], str]:
    """One function of text and language from two of text."""

    def normalize(text: str, language: str) -> str:
        function = english if primary(language) in ("en", "eng") else other
        separator = "" if is_character_language(language) else " "
        return separator.join(function(text).split())

    return normalize


def _digest(spellings: Mapping[str, str]) -> str:
    """8 hexadecimal digits that tell one map from another, whatever its order."""
    return hashlib.sha256(json.dumps(spellings, sort_keys=True).encode()).hexdigest()[:8]
