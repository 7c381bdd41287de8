"""Tiny models of the families, saved once and loaded anew."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from families.base import TEXTS, TinyFamily, waveforms
from families_at_hand import ALL, DURATIONS_S, READ, Load, steady


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """A family by name, its model in training mode without dropout, and its processor."""
    folders: dict[str, Any] = {}

    def loaded(name: str) -> tuple[TinyFamily, Any, Any]:
        family = ALL[name]
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            family.save(folders[name])
        model, processor = family.load(folders[name])
        return family, steady(model), processor

    return loaded


@pytest.fixture(scope="module", params=READ)
def loaded(request: pytest.FixtureRequest, load: Load) -> tuple[TinyFamily, Any, Any]:
    """Every family that can be read."""
    return load(request.param)


@pytest.fixture
def ready(loaded: tuple[TinyFamily, Any, Any]) -> Iterator[tuple[TinyFamily, Any, Any, Any]]:
    """A family, its model, processor and a batch of four; the model is as before afterwards."""
    family, model, processor = loaded
    batch = family.batch(processor, waveforms(*DURATIONS_S), TEXTS)
    model.zero_grad(set_to_none=True)
    yield family, model, processor, batch
    assert "forward" not in vars(model)
