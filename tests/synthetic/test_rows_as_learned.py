"""The rows that the corpora hold come to the ids that the tiny language model learned them by."""

from otreg.data.interleave import Interleaving
from otreg.data.manifest import Utterance
from otreg.data.segments import row_of
from otreg.model.prompts import separator_ids
from otreg.model.rendering import RenderedRow, render_document, render_plain
from otreg.synthetic.corpus import Line
from otreg.synthetic.examples import Exchange, draw_batches
from otreg.synthetic.fit import MiniatureSettings
from otreg.synthetic.language_model import train_tokenizer
from otreg.synthetic.topic_corpora import as_text as written
from otreg.synthetic.translation import translate
from otreg.synthetic.translation_corpora import as_text as to_translate

TEXT = "anna found the red lamp"
ANSWER = translate(TEXT)
TOKENIZER = train_tokenizer([TEXT, ANSWER, "translate"], 80)
EXCHANGE = Exchange(TEXT, "translate", ANSWER)


def learned(kind: str) -> tuple[list[int], int]:
    """An example of one kind, without noise."""
    settings = MiniatureSettings(
        language_model_steps=1, random_tokens=0, random_words=0, deletion=0, substitution=0,
        repetition=0, mixture={kind: 1},
    )  # fmt: skip
    exchanges = [EXCHANGE] if kind == "answer" else []
    return draw_batches([TEXT], TOKENIZER, settings, 0, exchanges)[0][0]


def supervised_from(row: RenderedRow) -> int:
    return next(i for i, label in enumerate(row.labels) if label != -100)


def test_a_question_in_text_is_rendered_as_it_was_learned():
    row = RenderedRow(audio_token_id=-1)
    render_plain(
        TOKENIZER,
        row_of(to_translate(Utterance("u", None, TEXT, "en"))),
        [],
        row,
        separator=separator_ids(TOKENIZER, "<asr>"),
        eos_token_id=TOKENIZER.eos_token_id,
    )
    tokens, prompt = learned("answer")
    assert row.ids == tokens
    assert supervised_from(row) == prompt


def test_a_written_document_is_rendered_as_it_was_learned():
    row = RenderedRow(audio_token_id=-1)
    document = Interleaving()(written("w", Line(TEXT, "en")))
    render_document(TOKENIZER, document, [], row, eos_token_id=TOKENIZER.eos_token_id)
    tokens, prompt = learned("text")
    assert row.ids == tokens
    assert supervised_from(row) == prompt
