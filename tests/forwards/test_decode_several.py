"""Several answers to a row, with their probabilities by the model itself."""

import pytest
import torch

from otreg.data import SpeechTextDataset
from otreg.data.segments import Row, Segment
from otreg.forwards import run_forwards
from otreg.model.generation import decode, transcribe
from rows import chat_row, transcribe_row


class InMemory(SpeechTextDataset):
    """Rows whose features are at hand."""

    def __init__(self, rows, features, processor):
        self.rows, self._features, self.processor = rows, features, processor
        self.encoder_cache = None

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        return {
            "id": row.id,
            "row": row,
            "text": row.answer,
            "input_features": self._features[index],
        }

    def durations_s(self):
        return [float(sum(map(len, features))) for features in self._features]


@pytest.fixture
def dataset(tiny):
    from tiny_towers import TEXTS, make_audio

    processor = tiny[1]
    rows = [
        transcribe_row(TEXTS[0], identity="a"),
        chat_row(("user", "say it"), ("assistant", "yes"), identity="b"),
        transcribe_row(TEXTS[1], identity="c"),
    ]
    sounds = make_audio(0.6, 0.9)
    features = [[processor.features(sounds[0])], [], [processor.features(sounds[1])]]
    return InMemory(rows, features, processor)


@pytest.mark.parametrize("options", [{}, {"num_return_sequences": 3}, {"do_sample": True}])
def test_log_probabilities_are_the_models_own(tiny, dataset, collate, options):
    """Oracle: one forward pass over row and answer."""
    model, processor = tiny
    if options.get("do_sample"):
        options = options | {"num_return_sequences": 4, "temperature": 0.7, "top_p": 0.9}
    torch.manual_seed(3)
    answers = decode(model, processor, dataset, max_new_tokens=6, batch_size=2, **options)
    assert [len(found) for found in answers] == [options.get("num_return_sequences", 1)] * 3
    from otreg.data import SpeechTextCollator

    for number, found in enumerate(answers):
        example = dataset[number]
        prompt = SpeechTextCollator(processor, training=False)([example])
        for hypothesis in found:
            ids = torch.tensor([hypothesis.ids])
            whole = torch.cat([prompt["input_ids"], ids], 1)
            batch = {**prompt, "input_ids": whole, "attention_mask": torch.ones_like(whole)}
            with torch.no_grad():
                logits = run_forwards(model, batch | {"labels": whole}).speech.logits[0]
            start = prompt["input_ids"].shape[1]
            expected = logits[start - 1 : -1].log_softmax(-1).gather(1, ids[0][:, None])[:, 0]
            torch.testing.assert_close(
                torch.tensor(hypothesis.token_log_probs), expected, atol=2e-4, rtol=1e-3
            )
            assert hypothesis.log_prob == pytest.approx(sum(hypothesis.token_log_probs))
        if options.get("num_return_sequences") == 3:
            assert len({h.ids for h in found}) == 3


def test_one_answer_without_sampling_is_the_transcription(tiny, dataset):
    model, processor = tiny
    greedy = transcribe(model, processor, dataset, max_new_tokens=6, batch_size=3)
    best = decode(model, processor, dataset, max_new_tokens=6)
    assert [result.hypothesis for result in greedy] == [found[0].text for found in best]
    assert [result.id for result in greedy] == ["a", "b", "c"]
    assert [result.reference for result in greedy][1] == "yes"


def test_numbers_out_of_range_are_refused(tiny, dataset):
    model, processor = tiny
    with pytest.raises(ValueError, match="3 answers need as many beams, got num_beams=2"):
        decode(model, processor, dataset, num_return_sequences=3, num_beams=2)
    with pytest.raises(ValueError, match="num_return_sequences must be at least 1"):
        decode(model, processor, dataset, num_return_sequences=0)


def test_units_have_no_reader_yet(tiny):
    row = Row("u", "chat", (Segment("units", (1, 2), "user"),))
    with pytest.raises(ValueError, match="no vocabulary for speech units"):
        tiny[1].tokenize_row(row, [])
