"""What stands in an attached model's `forward`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from otreg.integrations.port import OURS


class AttachedForward:
    """Calls the model's forward, through its handle where objectives are to be added.

    A copy of the model has its own class's forward, without objectives: a frozen reference must.

    Args:
        model: whose forward this stands in.
        handle: a `Handle`; None = nothing is added any more.
    """

    def __init__(self, model: nn.Module, handle: Any) -> None:
        self.model = model
        self.handle: Any = handle
        self.before = model.__dict__.get("forward")
        self.original: Callable[..., Any] = model.forward
        self.signature = inspect.signature(self.original)
        functools.update_wrapper(self, self.original)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output."""
        handle = self.handle
        if handle is None or not handle.is_active():
            for name in OURS:
                kwargs.pop(name, None)
            if handle is not None and handle.port.text_key is not None:
                kwargs.pop(handle.port.text_key, None)
            return self.original(*args, **kwargs)
        names = [name for name in self.signature.parameters if name != "self"]
        arguments = dict(zip(names, args, strict=False)) | kwargs
        return handle.run(self.original, arguments)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = memo.get(id(self.model))
        if copied is None:
            return self
        return self.before if self.before is not None else type(copied).forward.__get__(copied)

    def remove(self) -> None:
        """Give the model its forward back; inside of another's wrapper, only pass on."""
        self.handle = None
        if self.model.__dict__.get("forward") is self:
            del self.model.forward
            if self.before is not None:
                self.model.forward = self.before
