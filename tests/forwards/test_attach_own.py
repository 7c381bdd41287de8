"""Our own model is one more family for `attach`."""

import pytest
import torch

from otreg import OTReg, attach
from otreg.forwards import run_forwards


def test_attach_adds_to_our_own_model(tiny, collate, mixed_rows):
    model = tiny[0]
    batch = collate(*mixed_rows)
    expected = OTReg()(run_forwards(model, batch).pair()).loss.mean()
    plain = model(**batch).loss
    handle = attach(model.train(), OTReg(), weight=0.5)
    torch.manual_seed(0)
    loss = model(**batch).loss
    assert handle.loss.item() == pytest.approx(0.5 * expected.item(), rel=1e-3)
    assert loss.item() == pytest.approx(plain.item() + handle.loss.item(), rel=1e-3)
    model.eval()
    assert torch.equal(model(**batch).loss, plain)
    handle.detach()
    assert "forward" not in vars(model)
