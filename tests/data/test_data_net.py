"""What a batch must keep, whatever makes it."""

import pytest

from otreg.data import SpeechTextCollator, SpeechTextDataset, TokenBudgetBatchSampler


@pytest.mark.parametrize("side", ["left", "right"])
def test_transcripts_are_padded_on_the_right_whatever_the_prompts_are(corpus, processor, side):
    dataset = SpeechTextDataset(corpus, processor)
    batch = SpeechTextCollator(processor, padding_side=side)([dataset[i] for i in range(7)])
    for utterance, ids, mask in zip(corpus, batch["text_ids"], batch["text_mask"], strict=True):
        expected = [100 + ord(character) for character in utterance.text]
        assert mask.tolist() == [True] * len(expected) + [False] * (len(mask) - len(expected))
        assert ids[mask].tolist() == expected


def test_to_train_with_padding_on_the_left_each_row_ends_with_its_transcript(corpus, processor):
    dataset = SpeechTextDataset(corpus, processor)
    batch = SpeechTextCollator(processor, padding_side="left")([dataset[i] for i in range(7)])
    for row, utterance in enumerate(corpus):
        target = [100 + ord(character) for character in utterance.text] + [3]
        for key in ("input_ids", "labels"):
            assert batch[key][row, -len(target) :].tolist() == target
        ignored = len(batch["labels"][row]) - len(target)
        assert batch["labels"][row, :ignored].eq(-100).all()
        assert batch["input_ids"][row][batch["attention_mask"][row].bool()].ne(0).all()


def test_a_batch_may_be_capped_at_one_item():
    assert sorted(TokenBudgetBatchSampler([3, 4, 5], 100, max_items=1)) == [[0], [1], [2]]
