"""The weights at a stage's start, to look back at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


class Reference:
    """A copy of what trains, as it was when this was made.

    Only what trains is copied: with LoRA alone that is LoRA's few weights, and looking back costs no
    second language model. Parts attached later, such as heads of objectives, are not in it.

    Args:
        model: what trains is marked by `requires_grad`.
        start: the copied weights by name, from `load`; None = copy them now.
    """

    def __init__(self, model: nn.Module, start: dict[str, Tensor] | None = None) -> None:
        self.model = model
        if start is None:
            start = {
                name: parameter.detach().clone()
                for name, parameter in model.named_parameters()
                if parameter.requires_grad
            }
        self.start = start

    @contextmanager
    def weights(self) -> Iterator[None]:
        """Let the model have the weights of the stage's start; then give it back its own."""
        parameters = dict(self.model.named_parameters())
        now = {}
        try:
            for name, start in self.start.items():
                parameter = parameters[name]
                now[name] = parameter.data
                parameter.data = start.to(parameter.device, parameter.dtype)
            yield
        finally:
            for name, data in now.items():
                parameters[name].data = data

    def save(self, path: Path) -> None:
        """Write the copy as safetensors, in one step, for a resumed run to look back at."""
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_name(path.name + ".tmp")
        save_file({name: value.contiguous().cpu() for name, value in self.start.items()}, staged)
        staged.replace(path)

    @classmethod
    def load(cls, model: nn.Module, path: Path) -> Reference:
        """Read what `save` wrote.

        Raises:
            ValueError: it is of another model: names or shapes differ.
        """
        start = load_file(path)
        parameters = dict(model.named_parameters())
        wrong = [
            name
            for name, value in start.items()
            if name not in parameters or parameters[name].shape != value.shape
        ]
        missing = [n for n, p in parameters.items() if p.requires_grad and n not in start]
        if wrong or missing:
            raise ValueError(
                f"{path} holds the start of another model: {(wrong + missing)[0]} does not fit; "
                "start the run anew"
            )
        device = next(iter(parameters.values())).device
        return cls(model, {name: torch.as_tensor(v).to(device) for name, v in start.items()})
