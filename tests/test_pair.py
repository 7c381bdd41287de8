import pytest
import torch

from otreg import SpeechTextPair


def test_masks_left_out_mean_all_real() -> None:
    pair = SpeechTextPair(torch.randn(2, 5, 4), torch.randn(2, 3, 4))
    assert pair.speech_mask.dtype == torch.bool
    assert pair.speech_mask.shape == (2, 5)
    assert bool(pair.text_mask.all())
    assert pair.text_mask.shape == (2, 3)


def test_a_pair_cannot_be_changed() -> None:
    pair = SpeechTextPair(torch.randn(2, 5, 4), torch.randn(2, 3, 4))
    with pytest.raises(AttributeError):
        pair.speech = torch.randn(2, 5, 4)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speech": torch.randn(5, 4)}, r"speech must be \(batch, frames, dim\).*unsqueeze"),
        ({"text": torch.randn(2, 3)}, r"text must be \(batch, tokens, dim\)"),
        ({"speech": torch.zeros(2, 5, 4).long()}, "speech must be a floating-point tensor"),
        ({"text": [1.0]}, "text must be a floating-point tensor, got list"),
        ({"text": torch.randn(3, 3, 4)}, r"text must be \(batch=2, tokens, dim=4\)"),
        ({"text": torch.randn(2, 3, 6)}, r"text must be \(batch=2, tokens, dim=4\)"),
        ({"speech_mask": torch.ones(2, 5)}, r"speech_mask must be boolean.*\.bool\(\)"),
        ({"speech_mask": torch.ones(2, 4).bool()}, r"speech_mask must be a tensor of shape \(2, 5"),
        ({"text_mask": torch.ones(3).bool()}, r"text_mask must be a tensor of shape \(2, 3\)"),
        ({"token_ids": torch.ones(2, 3)}, "token_ids must be integers"),
        ({"token_ids": torch.ones(2, 4).long()}, r"token_ids must be a tensor of shape \(2, 3\)"),
        ({"pad_embedding": torch.randn(5)}, r"pad_embedding must be a tensor of shape \(4,\)"),
        ({"embedding_table": torch.randn(9, 5)}, r"embedding_table must be \(vocab, dim=4\)"),
        (
            {"step_ids": torch.ones(2, 3).long()},
            r"step_ids must be a tensor of shape \(k,\).*\(2, 3",
        ),
        ({"step_ids": [1, 2]}, r"step_ids must be a tensor of shape \(k,\).* got list"),
        ({"step_ids": torch.ones(3)}, r"step_ids must be integers, got torch.float32; use .long"),
        (
            {"embedding_table": torch.randn(9, 4), "step_ids": torch.tensor([3, 9])},
            r"step_ids must lie in \[0, 9\) to index embedding_table, got 3 … 9",
        ),
        (
            {"embedding_table": torch.randn(9, 4), "pad_token_id": 9},
            r"pad_token_id must lie in \[0, 9\), .* got 9; pass None",
        ),
        (
            {"embedding_table": torch.randn(9, 4), "pad_token_id": -1},
            r"pad_token_id must lie in \[0, 9\), .* got -1",
        ),
        ({"step_ids": torch.ones(3, device="meta").long()}, "step_ids is on meta, speech on cpu"),
        ({"speech": torch.randn(2, 5, 4, device="meta")}, "on cpu, speech on meta; move"),
        (
            {"text_mask": torch.tensor([[True, True, False], [False, False, False]])},
            r"text_mask has no real token in utterance\(s\) \[1\].*leave empty utterances out",
        ),
        (
            {"speech_mask": torch.zeros(2, 5).bool()},
            r"speech_mask has no real frame in utterance\(s\) \[0, 1\]",
        ),
        (
            {"embedding_table": torch.randn(9, 4), "token_ids": torch.full((2, 3), 9)},
            r"token_ids must lie in \[0, 9\).*got 9 … 9",
        ),
        (
            {"embedding_table": torch.randn(9, 4), "token_ids": torch.full((2, 3), -100)},
            "token_ids must lie in .*got -100 … -100; mark padding in text_mask",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_a_remedy(changes: dict, message: str) -> None:
    fits = {"speech": torch.randn(2, 5, 4), "text": torch.randn(2, 3, 4)}
    with pytest.raises(ValueError, match=message):
        SpeechTextPair(**(fits | changes))


def test_token_ids_of_padding_may_be_anything() -> None:
    ids = torch.tensor([[1, 2, -100], [1, 2, 3]])
    mask = ids != -100
    pair = SpeechTextPair(
        torch.randn(2, 5, 4),
        torch.randn(2, 3, 4),
        text_mask=mask,
        token_ids=ids,
        embedding_table=torch.randn(9, 4),
    )
    assert pair.token_ids is ids


def test_a_table_is_taken_as_it_is() -> None:
    table = torch.nn.Parameter(torch.randn(9, 4))
    pair = SpeechTextPair(
        torch.randn(2, 5, 4),
        torch.randn(2, 3, 4),
        embedding_table=table,
        pad_token_id=3,
        step_ids=torch.empty(0).long(),
        draw_seed=-5,
    )
    assert pair.embedding_table is table
