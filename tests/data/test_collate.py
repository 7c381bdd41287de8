import numpy as np
import pytest
import torch

from otreg.data import IGNORED_LABEL, SpeechTextCollator, SpeechTextDataset
from rows import chat_row, clip, transcribe_row


def example(frames, text, *, identity="u", cached=False, dim=2):
    values = torch.arange(1, frames * dim + 1, dtype=torch.float32).reshape(frames, dim)
    speech = (
        {"encoder_hidden_states": [values]}
        if cached
        else {"input_features": [values.numpy().copy()]}
    )
    row = transcribe_row(text, identity=identity, language="en")
    return {"id": identity, "row": row, "text": text, "language": "en", "speaker": None, **speech}


def test_the_training_batch_is_the_documented_literal(processor):
    batch = SpeechTextCollator(processor)([example(16, "ab"), example(8, "c")])
    a, b, c, audio, ignored = 197, 198, 199, processor.audio_token_id, IGNORED_LABEL
    expected = {
        "input_ids": [[1, audio, audio, 2, a, b, 3], [1, audio, 2, c, 3, 0, 0]],
        "attention_mask": [[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0]],
        "labels": [[ignored] * 4 + [a, b, 3], [ignored] * 3 + [c, 3] + [ignored] * 2],
        "text_ids": [[a, b], [c, 0]],
        "text_mask": [[True, True], [True, False]],
        "clips": [[0, 1, 2], [1, 1, 1]],
    }
    for key, value in expected.items():
        assert batch[key].tolist() == value, key
    assert batch.keys() == expected.keys() | {"input_features", "input_features_mask"}
    assert batch["input_ids"].dtype == batch["labels"].dtype == torch.long
    assert batch["attention_mask"].dtype == batch["text_ids"].dtype == torch.long
    assert batch["input_features"].shape == (2, 16, 2)
    assert batch["input_features"].dtype == torch.float32
    assert batch["text_mask"].dtype == batch["input_features_mask"].dtype == torch.bool


def test_features_are_padded_with_zeros_and_masked(processor):
    batch = SpeechTextCollator(processor)([example(8, "c"), example(16, "ab")])
    mask = batch["input_features_mask"]
    assert mask.sum(1).tolist() == [8, 16]
    assert (batch["input_features"][~mask] == 0).all()
    assert (batch["input_features"][mask] > 0).all()


def test_samples_as_features_are_a_two_dimensional_batch(processor):
    items = [example(8, "c"), example(16, "ab")]
    for item in items:
        item["input_features"] = [values[:, 0].copy() for values in item["input_features"]]
    assert SpeechTextCollator(processor)(items)["input_features"].shape == (2, 16)


def test_to_generate_prompts_are_padded_left_and_hold_no_transcript(processor):
    collator = SpeechTextCollator(processor, padding_side="left", training=False)
    batch = collator([example(16, "ab"), example(8, "")])
    audio = processor.audio_token_id
    assert batch["input_ids"].tolist() == [[1, audio, audio, 2], [0, 1, audio, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 1, 1, 1]]
    assert batch["input_features_mask"].sum(1).tolist() == [16, 8]
    assert batch["input_features_mask"][1, :8].all()
    assert not {"labels", "text_ids", "text_mask"} & batch.keys()


def test_cached_states_replace_features(processor):
    items = [example(8, "c", cached=True, dim=5), example(4, "ab", cached=True, dim=5)]
    batch = SpeechTextCollator(processor)(items)
    assert batch["encoder_hidden_states"].shape == (2, 8, 5)
    assert batch["encoder_mask"].sum(1).tolist() == [8, 4]
    assert (batch["input_ids"] == processor.audio_token_id).sum(1).tolist() == [2, 1]
    assert "input_features" not in batch


def test_batch_is_the_singles_padded(corpus, processor):
    dataset = SpeechTextDataset(corpus, processor)
    collator = SpeechTextCollator(processor)
    batch = collator([dataset[n] for n in range(len(dataset))])
    for row in range(len(dataset)):
        single = collator([dataset[row]])
        for key, value in single.items():
            together = batch[key][row, : value.shape[1]]
            if key == "clips":
                assert together[1:].tolist() == value[0, 1:].tolist()
                continue
            assert torch.equal(together, value[0]), key
            padding = IGNORED_LABEL if key == "labels" else 0
            assert (batch[key][row, value.shape[1] :] == padding).all(), key


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "at least one example"),
        ([example(8, "a"), example(8, "a", cached=True)], "use the encoder cache for all or for"),
        ([example(8, "a"), example(8, "a", dim=3)], r"the further axes \[\(2,\), \(3,\)\]"),
        ([example(8, "", identity="u7")], "'u7' has nothing to train on"),
    ],
)
def test_examples_that_make_no_batch_are_refused(processor, items, message):
    with pytest.raises(ValueError, match=message):
        SpeechTextCollator(processor)(items)


def test_what_the_tokenizer_refuses_names_the_utterance(processor, monkeypatch):
    def refuse(row, num_frames):
        raise ValueError("the transcript has no tokens")

    monkeypatch.setattr(processor, "tokenize_row", refuse)
    with pytest.raises(ValueError, match="utterance 'u7': the transcript has no tokens"):
        SpeechTextCollator(processor)([example(8, "?", identity="u7")])


def test_another_padding_side_is_refused(processor):
    with pytest.raises(ValueError, match="'left' or 'right', received 'both'"):
        SpeechTextCollator(processor, padding_side="both")


def test_collating_does_not_change_the_examples(processor):
    items = [example(8, "c"), example(16, "ab")]
    before = [item["input_features"][0].copy() for item in items]
    batch = SpeechTextCollator(processor)(items)
    batch["input_features"].zero_()
    for item, values in zip(items, before, strict=True):
        np.testing.assert_array_equal(item["input_features"][0], values)


def test_clips_are_flat_in_the_order_of_their_placeholders(processor):
    """A row of two clips, a row of none and a row of one make one batch."""
    rows = [
        chat_row(("user", clip("ab")), ("user", clip("c")), ("assistant", "x")),
        chat_row(("user", "hello"), ("assistant", "yz")),
        transcribe_row("d"),
    ]
    frames = [[16, 8], [], [24]]
    items = [
        {
            "id": row.id,
            "row": row,
            "input_features": [np.full((n, 2), n, dtype=np.float32) for n in lengths],
        }
        for row, lengths in zip(rows, frames, strict=True)
    ]
    for side in ("right", "left"):
        batch = SpeechTextCollator(processor, padding_side=side)(items)
        assert batch["input_features_mask"].sum(1).tolist() == [16, 8, 24]
        assert batch["clips"][:, 0].tolist() == [0, 0, 2]
        audio = batch["input_ids"] == processor.audio_token_id
        for row, start, length in batch["clips"].tolist():
            assert audio[row, start : start + length].all()
        assert audio.sum() == batch["clips"][:, 2].sum()
        assert batch["text_mask"].sum(1).tolist() == [2, 1, 1]


def test_rows_of_text_alone_make_a_batch_without_audio(processor):
    item = {"id": "t", "row": chat_row(("user", "a"), ("assistant", "b")), "input_features": []}
    batch = SpeechTextCollator(processor)([item])
    assert batch.keys() == {"input_ids", "attention_mask", "labels"}
