"""What is known of languages: one list for error rates and word times."""

import pytest

from otreg.evaluation.wer import error_rates
from otreg.languages import is_character_language
from otreg.prepare.spelling import word_spans

CODES = ["zh", "zho", "cmn", "yue", "ja", "jpn", "th", "tha", "lo", "lao", "km", "khm", "my", "mya"]


@pytest.mark.parametrize("language", [*CODES, "zh-CN", "JA_jp", "en", "ko", "hi", "vi", "zhx", ""])
def test_error_rates_and_word_times_agree_on_what_a_word_is(language: str) -> None:
    by_character = is_character_language(language)
    assert by_character == (language in CODES or language in ("zh-CN", "JA_jp"))
    assert len(word_spans("ab c", language)) == (3 if by_character else 2)
    assert error_rates(["ab c"], ["ab c"], language=language).num_words == (
        3 if by_character else 2
    )
