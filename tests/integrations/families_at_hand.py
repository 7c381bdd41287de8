"""All tiny families, and a model made steady, so that two passes can be compared."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import families
from families.base import ReadFamily, TinyFamily
from torch import nn

ALL: dict[str, TinyFamily] = {
    module.name: importlib.import_module(f"families.{module.name}").FAMILY
    for module in pkgutil.iter_modules(families.__path__)
    if module.name not in ("base", "chat")
}
READ = [name for name, family in ALL.items() if isinstance(family, ReadFamily)]
REFUSED = [name for name in ALL if name not in READ]
DURATIONS_S = (1.3, 0.8, 2.1, 0.5)
EIGHT_S = (1.3, 0.8, 2.1, 0.5, 0.9, 1.7, 0.6, 1.1)

Load = Callable[[str], tuple[Any, Any, Any]]  # a family, its model and processor


def steady(model: Any) -> Any:
    """The model in training mode, without chance and without statistics of the batch."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.BatchNorm1d):
            module.eval()
        for name in ("dropout", "attention_dropout", "activation_dropout", "layerdrop"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model
