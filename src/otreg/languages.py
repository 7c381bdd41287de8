"""What otreg knows of languages."""

# Languages that do not write words apart, by ISO 639's codes of two and three letters.
CHARACTER_LANGUAGES = frozenset(
    ["zh", "zho", "cmn", "yue", "ja", "jpn", "th", "tha", "lo", "lao", "km", "khm", "my", "mya"]
)


def primary(language: str) -> str:
    """The code without script and region: zh-Hans-CN -> zh."""
    return language.replace("_", "-").split("-")[0].lower()


def is_character_language(language: str) -> bool:
    """Tell whether every character counts as a word: Chinese, Japanese, Thai, Lao, Khmer, Burmese."""
    return primary(language) in CHARACTER_LANGUAGES
