"""Adapters: stacking, padding, starting norm, gradients."""

import pytest
import torch

from otreg.model.adapters import ConvAdapter, OutputProjection, StackMLPAdapter, stack_frames

LENGTHS = torch.tensor([11, 1, 5, 8])
MASK = torch.arange(11) < LENGTHS[:, None]


def _adapters():
    torch.manual_seed(0)
    return [
        StackMLPAdapter(6, 10, stack=5, hidden_size=12),
        StackMLPAdapter(6, 10, stack=1, hidden_size=12, layers=0),
        StackMLPAdapter(6, 10, stack=3, hidden_size=12, layers=2),
        ConvAdapter(6, 10, stack=2, hidden_size=8),
        ConvAdapter(6, 10, stack=3, hidden_size=8, layers=1, kernel=3, ffn_ratio=2),
    ]


def test_stacking_concatenates_runs_and_keeps_the_last_short_one():
    hidden = torch.arange(1.0, 12).reshape(1, 11, 1)
    stacked, mask = stack_frames(hidden, torch.ones(1, 11, dtype=torch.bool), 5)
    assert stacked[0].tolist() == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [11, 0, 0, 0, 0]]
    assert mask.all()


@pytest.mark.parametrize("index", range(5))
def test_a_row_depends_on_its_real_frames_alone(index):
    adapter = _adapters()[index]
    hidden = torch.randn(4, 11, 6)
    out, mask = adapter(torch.where(MASK[..., None], hidden, torch.nan), MASK)
    assert mask.sum(1).tolist() == (-(-LENGTHS // adapter.stack)).tolist()
    assert not out[~mask].any()
    for row, length in enumerate(LENGTHS.tolist()):
        alone, _ = adapter(hidden[row : row + 1, :length], MASK[row : row + 1, :length])
        torch.testing.assert_close(out[row][mask[row]], alone[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("index", range(5))
def test_gradients_are_finite_when_padding_is_not(index):
    adapter = _adapters()[index]
    hidden = torch.where(MASK[..., None], torch.randn(4, 11, 6), torch.inf).requires_grad_()
    adapter(hidden, MASK)[0].square().sum().backward()
    assert torch.isfinite(hidden.grad).all()
    assert not hidden.grad[~MASK].any()
    assert all(torch.isfinite(p.grad).all() for p in adapter.parameters())


@pytest.mark.parametrize("kind", [StackMLPAdapter, ConvAdapter])
@torch.no_grad()
def test_dropout_acts_in_training_alone(kind):
    torch.manual_seed(0)
    hidden = torch.randn(4, 11, 6)
    adapter = kind(6, 10, hidden_size=12, dropout=0.5)
    assert not torch.equal(adapter(hidden, MASK)[0], adapter(hidden, MASK)[0])
    adapter.eval()
    assert torch.equal(adapter(hidden, MASK)[0], adapter(hidden, MASK)[0])


@pytest.mark.parametrize("norm", [0.3, 1.0, 40.0])
@torch.no_grad()
def test_outputs_start_at_the_wanted_norm(norm):
    torch.manual_seed(0)
    adapter = ConvAdapter(64, 256, hidden_size=128, output_norm=norm)
    out, mask = adapter(torch.randn(4, 40, 64), torch.ones(4, 40, dtype=torch.bool))
    assert float(out[mask].norm(dim=-1).mean()) == pytest.approx(norm, rel=0.1)


@torch.no_grad()
def test_resetting_the_output_keeps_its_norm():
    torch.manual_seed(0)
    layer = OutputProjection(100, 400, 5.0)
    layer.reset_parameters()
    assert float(layer.weight.std()) == pytest.approx(5 / 200, rel=0.02)
    assert not layer.bias.any()


def test_the_convolution_sees_neighbours_but_no_absolute_position():
    torch.manual_seed(0)
    adapter = ConvAdapter(4, 8, stack=1, hidden_size=8, layers=1, kernel=5)
    sound = torch.randn(1, 9, 4)
    silence = torch.zeros(1, 12, 4)
    mask = torch.ones(1, 33, dtype=torch.bool)
    early = adapter(torch.cat([silence[:, :6], sound, silence, silence[:, :6]], 1), mask)[0]
    late = adapter(torch.cat([silence, silence[:, :6], sound, silence[:, :6]], 1), mask)[0]
    torch.testing.assert_close(early[:, 6:15], late[:, 18:27], atol=1e-6, rtol=1e-5)
