"""Merging, dropping and snapping against loops and closed forms."""

import pytest
import torch

from otreg.model.compression import (
    compaction_index,
    cosine_to_pad,
    frames_to_keep,
    gather_rows,
    keep_log_weight,
    merge_pairs,
    snap_to_vocabulary,
    soft_causal_mask,
)

LENGTHS = [7, 1, 4, 6]


@pytest.fixture
def speech():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, 7, 5, generator=generator, dtype=torch.float64)
    values[0, 3] = values[0, 2] * 2
    values[2, 1] = values[2, 0]
    mask = torch.arange(7) < torch.tensor(LENGTHS)[:, None]
    return values, mask


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.5, 0.99, 1.0])
def test_merging_equals_a_loop_over_pairs(speech, threshold):
    values, mask = speech
    merged, keep = merge_pairs(values, mask, threshold)
    for row, length in enumerate(LENGTHS):
        expected, i = [], 0
        while i < length:
            pair = i % 2 == 0 and i + 1 < length
            if pair and torch.cosine_similarity(values[row, i], values[row, i + 1], 0) > threshold:
                expected.append((values[row, i] + values[row, i + 1]) / 2)
                i += 2
            else:
                expected.append(values[row, i])
                i += 1
        torch.testing.assert_close(merged[row][keep[row]], torch.stack(expected))


def test_merging_keeps_half_of_a_long_equal_sound():
    values = torch.ones(1, 9, 3)
    _, keep = merge_pairs(values, torch.ones(1, 9, dtype=torch.bool), 0.9)
    assert keep[0].tolist() == [True, False] * 4 + [True]


def test_nan_in_padding_does_not_change_merging_or_dropping(speech):
    values, mask = speech
    pad = torch.randn(5, generator=torch.Generator().manual_seed(1))
    dirty = torch.where(mask[..., None], values, torch.nan).requires_grad_()
    merged, keep = merge_pairs(dirty, mask, 0.1)
    clean_merged, clean_keep = merge_pairs(values, mask, 0.1)
    assert torch.equal(keep, clean_keep)
    assert torch.equal(merged[keep], clean_merged[keep])
    weights = keep_log_weight(dirty, mask, pad, 0.2, 0.1)
    assert torch.equal(weights, keep_log_weight(values, mask, pad, 0.2, 0.1))
    (weights.sum() + merged[keep].sum()).backward()
    assert torch.isfinite(dirty.grad[mask]).all()
    assert torch.equal(
        frames_to_keep(dirty, mask, pad, 0.2), frames_to_keep(values, mask, pad, 0.2)
    )


def test_soft_dropping_becomes_hard_dropping_as_the_temperature_falls(speech):
    values, mask = speech
    pad = torch.randn(5, generator=torch.Generator().manual_seed(1))
    weight = keep_log_weight(values, mask, pad, 0.1, 1e-5).exp()
    expected = frames_to_keep(values, mask, pad, 0.1)
    assert torch.equal(weight[mask].round().bool(), expected[mask])
    assert ((weight[mask] < 1e-6) | (weight[mask] > 1 - 1e-6)).all()


def test_a_frame_at_the_threshold_weighs_one_half():
    pad = torch.tensor([3.0, 0.0])
    frame = torch.tensor([[[300.0, 400.0]]])
    mask = torch.ones(1, 1, dtype=torch.bool)
    assert float(keep_log_weight(frame, mask, pad, 0.6, 0.05).exp()) == pytest.approx(0.5, abs=1e-4)


def test_the_weight_has_the_gradient_of_its_formula():
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(1, 3, 4, generator=generator).requires_grad_()
    pad = torch.randn(4, generator=generator)
    mask = torch.ones(1, 3, dtype=torch.bool)
    keep_log_weight(frames, mask, pad, 0.1, 0.3).sum().backward()
    x = frames.detach().double().requires_grad_()
    cosine = torch.cosine_similarity(x, pad.double().expand_as(x), dim=-1)
    torch.log(1 / (1 + torch.exp(-(0.1 - cosine) / 0.3))).sum().backward()
    torch.testing.assert_close(frames.grad, x.grad.float(), atol=1e-5, rtol=1e-4)


def test_adding_log_m_multiplies_attention_by_m():
    logits = torch.randn(1, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    weight = torch.tensor([[1.0, 0.3, 1.0, 0.7, 1.0]])
    mask = soft_causal_mask(torch.ones(1, 5), weight.log(), torch.float32)
    got = (logits + mask).softmax(-1)
    exponentials = logits.exp().tril() * weight
    torch.testing.assert_close(got, exponentials / exponentials.sum(-1, keepdim=True))


def test_the_soft_mask_hides_padding_and_the_future():
    attention = torch.tensor([[0, 1, 1], [1, 1, 0]])
    mask = soft_causal_mask(attention, torch.zeros(2, 3), torch.float32)
    visible = mask[:, 0] == 0
    assert visible[0].tolist() == [[False] * 3, [False, True, False], [False, True, True]]
    assert visible[1].tolist() == [[True, False, False], [True, True, False], [True, True, False]]
    assert torch.isfinite(mask).all()


def test_no_snap_is_the_identity(speech):
    values, _ = speech
    assert snap_to_vocabulary(values, torch.randn(6, 5), 0.0, 0.1) is values


def test_snap_equals_its_formula(speech):
    values = speech[0].float()
    table = torch.randn(6, 5, generator=torch.Generator().manual_seed(2))
    got = snap_to_vocabulary(values, table, 0.8, 0.1)
    for f, out in zip(values.reshape(-1, 5), got.reshape(-1, 5), strict=True):
        weights = (torch.cosine_similarity(f[None], table) / 0.1).softmax(0)
        torch.testing.assert_close(out, 0.2 * f + 0.8 * weights @ table, atol=1e-5, rtol=1e-4)


def test_a_full_snap_at_low_temperature_gives_the_nearest_token():
    table = torch.randn(6, 5, generator=torch.Generator().manual_seed(2))
    near = 3 * table + 0.01
    torch.testing.assert_close(snap_to_vocabulary(near, table, 1.0, 1e-3), table)


def test_snap_does_not_move_with_autocast(speech):
    values = speech[0].float()
    table = torch.randn(6, 5, generator=torch.Generator().manual_seed(2))
    expected = snap_to_vocabulary(values, table, 0.8, 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(snap_to_vocabulary(values, table, 0.8, 0.1), expected)


def test_cosine_to_pad_does_not_move_with_autocast(speech):
    values, pad = speech[0].float(), torch.linspace(-1, 1, 5)
    expected = cosine_to_pad(values, pad)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(cosine_to_pad(values, pad), expected)


def test_cosines_are_finite_at_zero():
    x = torch.zeros(2, 3, requires_grad=True)
    cosine_to_pad(x, torch.zeros(3)).sum().backward()
    snap_to_vocabulary(x, torch.ones(4, 3), 0.5, 0.1).sum().backward()
    assert x.grad.abs().max() <= 1001


@pytest.mark.parametrize("left", [False, True])
def test_compaction_keeps_order_and_padding_side(left):
    keep = torch.tensor([[1, 0, 1, 1, 0, 1], [0, 0, 1, 0, 1, 0]]).bool()
    ids = torch.arange(12).reshape(2, 6)
    index, kept = compaction_index(keep, left=left)
    got = gather_rows(ids, index)
    assert got[kept].tolist() == ids[keep].tolist()
    assert kept.sum(1).tolist() == [4, 2]
    assert kept[1].tolist() == ([False, False, True, True] if left else [True, True, False, False])
    embeds = torch.randn(2, 6, 3)
    assert torch.equal(gather_rows(embeds, index)[kept], embeds[keep])
