"""`pair_from_labels`: a pair in a loop of one's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from otreg import OTReg
from otreg.integrations import pair_from_labels

END, SPECIAL = 9, 8
LABELS = torch.tensor([[-100, SPECIAL, 1, 2, END, 5], [-100, -100, 3, END, -100, -100]])


def made(**changes: Any) -> Any:
    torch.manual_seed(0)
    given = {
        "speech": torch.randn(2, 6, 4),
        "lengths": torch.tensor([6, 4]),
        "labels": LABELS,
        "embeddings": nn.Embedding(10, 4),
        "special_ids": [SPECIAL],
        "end_ids": [END],
    }
    return pair_from_labels(**(given | changes))


def test_end_and_special_tokens_and_what_follows_are_no_text() -> None:
    pair = made()
    assert [
        ids[mask].tolist() for ids, mask in zip(pair.token_ids, pair.text_mask, strict=True)
    ] == [
        [1, 2],
        [3],
    ]
    assert pair.speech_mask.sum(1).tolist() == [6, 4]
    assert OTReg()(pair).loss.shape == (2,)


def test_rows_come_through_the_modules_forward() -> None:
    class Doubling(nn.Embedding):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(ids)

    embeddings = Doubling(10, 4)
    pair = made(embeddings=embeddings, pad_token_id=0)
    assert torch.equal(pair.text[0, 0], 2 * embeddings.weight[1])
    assert torch.equal(pair.pad_embedding, 2 * embeddings.weight[0])
    assert not pair.text.requires_grad


def test_a_mask_does_as_well_as_lengths() -> None:
    mask = torch.arange(6) < torch.tensor([6, 4])[:, None]
    assert torch.equal(made(lengths=mask.long()).speech_mask, made().speech_mask)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": torch.tensor([300, 200])}, "count mel or encoder frames"),
        ({"lengths": torch.ones(2, 3000)}, "count mel or encoder frames"),
        ({"lengths": torch.ones(3)}, r"lengths must be \(batch=2,\)"),
        ({"speech": torch.randn(6, 4)}, r"speech must be \(batch, frames, dim\)"),
        ({"pad_token_id": -1}, "says that the model has no pad token"),
        ({"labels": torch.full((2, 3), -100)}, r"utterance\(s\) \[0, 1\] hold no text"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**changes)
