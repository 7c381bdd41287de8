import numpy as np
import pytest
import torch
from torch import Tensor

from oracles import unique_loop
from otreg.objectives.targets import position_cost, unique_targets


def clustered(batch: int, tokens: int, dim: int = 6) -> tuple[Tensor, Tensor]:
    """Rows with exact and near repeats, ragged."""
    centres = torch.randn(5, dim)
    rows = centres[torch.randint(5, (batch, tokens))] * (0.5 + torch.rand(batch, tokens, 1))
    lengths = torch.randint(1, tokens + 1, (batch, 1))
    lengths[0] = tokens
    return rows + 0.15 * torch.randn_like(rows), torch.arange(tokens) < lengths


@pytest.mark.parametrize("threshold", [-0.5, 0.3, 0.8, 0.95, 0.99, 1.0])
def test_targets_match_a_greedy_loop(threshold: float) -> None:
    text, mask = clustered(6, 12)
    targets = unique_targets(text, mask, threshold)
    for k in range(6):
        length = int(mask[k].sum())
        rows = text[k, :length].double().numpy()
        firsts, belongs = unique_loop(rows, threshold)
        assert targets.token_index[k][targets.mask[k]].tolist() == firsts
        assert targets.occurrences[k, :length].tolist() == belongs
        assert bool((targets.occurrences[k, length:] == -1).all())
        counts = np.bincount(belongs).tolist()
        assert targets.counts()[k][targets.mask[k]].tolist() == counts
        assert bool((targets.counts()[k][~targets.mask[k]] == 0).all())
        np.testing.assert_array_equal(targets.embeddings[k][targets.mask[k]], text[k, firsts])
    assert int(targets.mask.sum(1).max()) == targets.mask.shape[1]  # no column to spare


def test_a_chain_of_near_tokens_is_cut_by_order_of_first_occurrence() -> None:
    angle = torch.tensor([0.0, 20.0, 40.0, 60.0]).deg2rad()
    text = torch.stack([angle.cos(), angle.sin()], 1).unsqueeze(0)
    threshold = float(torch.tensor(25.0).deg2rad().cos())
    targets = unique_targets(text, torch.ones(1, 4).bool(), threshold)
    assert targets.token_index.tolist() == [[0, 2]]  # 20 joins 0; 40 is far from 0; 60 joins 40
    assert targets.occurrences.tolist() == [[0, 0, 1, 1]]


def test_equal_tokens_share_a_target_at_threshold_one() -> None:
    scales = torch.tensor([1.0, 3.0, 0.01, 1.0]).view(4, 1)
    text = torch.randn(50, 1, 300).expand(50, 4, 300) * scales  # whose cosines round to 1 or below
    targets = unique_targets(text, torch.ones(50, 4).bool(), 1.0)
    assert targets.counts().tolist() == [[4]] * 50


def test_no_threshold_keeps_all_tokens_apart() -> None:
    text, mask = clustered(3, 8)
    targets = unique_targets(text, mask, None)
    assert torch.equal(targets.mask, mask)
    assert torch.equal(targets.token_index[mask], torch.arange(8).expand(3, 8)[mask])


def test_zero_rows_are_targets_of_their_own() -> None:
    text = torch.zeros(1, 2, 4)
    targets = unique_targets(text, torch.ones(1, 2).bool(), 0.9)
    assert targets.mask.sum() == 2
    assert targets.occurrences.tolist() == [[0, 1]]


def test_the_pad_anchor_comes_last_with_count_one() -> None:
    text, mask = clustered(4, 6)
    pad = torch.randn(6) * 5
    without = unique_targets(text, mask, 0.999)
    targets = unique_targets(text, mask, 0.999, pad)
    last = targets.mask.sum(1) - 1
    assert bool((targets.anchor.sum(1) == 1).all())
    assert torch.equal(targets.anchor.int().argmax(1), last)
    assert torch.equal(last, without.mask.sum(1))
    rows = torch.arange(4)
    torch.testing.assert_close(targets.embeddings[rows, last], pad.expand(4, 6))
    assert bool((targets.counts()[rows, last] == 1).all())
    assert bool((targets.token_index[rows, last] == -1).all())
    assert torch.equal(targets.occurrences, without.occurrences)


def test_a_token_like_the_pad_row_leaves_no_anchor_of_its_own() -> None:
    text = torch.randn(2, 3, 6)
    targets = unique_targets(text, torch.ones(2, 3).bool(), 0.99, text[0, 1])
    assert targets.anchor.any(1).tolist() == [False, True]
    assert targets.mask.sum(1).tolist() == [3, 4]
    assert targets.counts()[0].tolist() == [1, 1, 1, 0]  # the merged anchor is no occurrence


def test_padding_does_not_change_targets() -> None:
    text, mask = clustered(3, 8)
    wide = torch.cat([text, torch.randn(3, 4, 6)], 1)
    wide_mask = torch.cat([mask, torch.zeros(3, 4).bool()], 1)
    a, b = unique_targets(text, mask, 0.9), unique_targets(wide, wide_mask, 0.9)
    assert torch.equal(a.counts(), b.counts())
    for name in ("embeddings", "mask", "token_index", "anchor"):
        assert torch.equal(getattr(a, name), getattr(b, name))


def test_padding_that_holds_the_pad_row_leaves_the_anchor_alone() -> None:
    # As training has it: padded token ids are the pad token's, so padding rows are the pad row.
    text, mask = clustered(4, 6)
    pad = torch.randn(6) * 5
    expected = unique_targets(text, mask, 0.999, pad)
    filled = torch.where(mask.unsqueeze(2), text, pad)
    targets = unique_targets(filled, mask, 0.999, pad)
    assert bool((~mask).any())
    assert bool((targets.anchor.sum(1) == 1).all())
    for name in ("embeddings", "mask", "token_index", "anchor", "occurrences"):
        assert torch.equal(getattr(targets, name), getattr(expected, name)), name


def test_padding_on_the_left_moves_positions_alone() -> None:
    text, mask = clustered(3, 8)
    left = torch.cat([torch.full((3, 2, 6), float("nan")), text], 1)
    left_mask = torch.cat([torch.zeros(3, 2).bool(), mask], 1)
    a, b = unique_targets(text, mask, 0.8), unique_targets(left, left_mask, 0.8)
    for name in ("embeddings", "mask"):
        assert torch.equal(getattr(a, name), getattr(b, name))
    assert torch.equal(a.token_index[a.mask] + 2, b.token_index[b.mask])
    assert torch.equal(a.occurrences, b.occurrences[:, 2:])


def test_autocast_does_not_change_targets() -> None:
    text, mask = clustered(6, 12, dim=16)
    text[:, 3] = 3 * text[:, 1]  # one direction, whose cosine rounds below 1 in half precision
    for threshold in (0.99, 1.0):
        expected = unique_targets(text, mask, threshold)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            targets = unique_targets(text, mask, threshold)
        assert torch.equal(targets.occurrences, expected.occurrences)


def test_targets_carry_no_gradient() -> None:
    text = torch.randn(1, 3, 4, requires_grad=True)
    pad = torch.randn(4, requires_grad=True)
    assert not unique_targets(text, torch.ones(1, 3).bool(), 0.9, pad).embeddings.requires_grad


def test_position_cost_is_the_nearest_occurrence_in_time() -> None:
    text, mask = clustered(4, 9)
    frame_mask = torch.arange(12) < torch.tensor([[12], [7], [9], [1]])
    targets = unique_targets(text, mask, 0.8, torch.randn(6) * 5)
    cost = position_cost(frame_mask, mask, targets, 0.2)
    for k in range(4):
        n, length = int(frame_mask[k].sum()), int(mask[k].sum())
        for j in range(targets.mask.shape[1]):
            places = [t for t in range(length) if targets.occurrences[k, t] == j]
            for i in range(12):
                at = (i + 0.5) / n
                apart = [((at - (t + 0.5) / length) / 0.2) ** 2 for t in places]
                expected = min(apart) if places and i < n else 0.0
                assert float(cost[k, i, j]) == pytest.approx(expected, abs=1e-5)
