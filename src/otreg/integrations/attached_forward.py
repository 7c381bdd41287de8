"""What stands in an attached model's `forward`."""

from __future__ import annotations

import copy
import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from otreg.integrations.port import OURS

logger = logging.getLogger(__name__)


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
        """The model's output.

        Raises:
            RuntimeError: a replica of nn.DataParallel, which shares the handle with the others.
        """
        handle = self.handle
        if handle is None:
            return self.original(*args, **kwargs)
        if getattr(self.model, "_is_replica", False):
            raise RuntimeError(
                "attach() does not work under nn.DataParallel; use one process a GPU"
            )
        if not handle.is_active():
            kept = set(self.signature.parameters)
            for name in (*OURS, handle.port.text_key):
                if name not in kept:
                    kwargs.pop(name, None)
            if (
                torch.is_grad_enabled()
                and not self.model.training
                and kwargs.get("labels") is not None
            ):
                _warn_of_evaluation_mode()
            return self.original(*args, **kwargs)
        names = [name for name in self.signature.parameters if name != "self"]
        return handle.run(self.original, dict(zip(names, args, strict=False)) | kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = memo.get(id(self.model))
        if copied is None:
            return self
        if self.before is not None:
            return copy.deepcopy(self.before, memo)
        return type(copied).forward.__get__(copied)

    def remove(self) -> None:
        """Give the model its forward back; inside of another's wrapper, only pass on."""
        self.handle = None
        if self.model.__dict__.get("forward") is self:
            del self.model.forward
            if self.before is not None:
                self.model.forward = self.before


@functools.cache
def _warn_of_evaluation_mode() -> None:
    logger.warning(
        "attach() adds nothing in evaluation mode, which from_pretrained leaves a model in; call "
        "model.train() to train"
    )
