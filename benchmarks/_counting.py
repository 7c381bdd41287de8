"""Operations and bytes of what runs under a context, on real tensors or on fake ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

# They read as many rows as they return, not the whole of what they read from.
_GATHERS = {"aten.index_select", "aten.embedding", "aten.gather", "aten.index"}


def _attention_flops(q: Any, k: Any, v: Any, *rest: Any, **options: Any) -> int:
    """Of q k' and of its softmax times v."""
    batch, heads, queries, dim = q
    return 2 * batch * heads * queries * k[2] * (dim + v[3])


def _attention_backward_flops(grad: Any, q: Any, k: Any, v: Any, *rest: Any, **options: Any) -> int:
    """Of five products: the scores once more, and what goes to v, to the softmax, to q and to k."""
    batch, heads, queries, dim = q
    return 2 * batch * heads * queries * k[2] * (3 * dim + 2 * v[3])


def _addmm_flops(total: Any, a: Any, b: Any, *rest: Any, **options: Any) -> int:
    return 2 * a[0] * a[1] * b[1]


# What torch's counter does not know: a product added in place, and the CPU's fused attention.
_FURTHER = {
    torch.ops.aten.addmm_: _addmm_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}


class Counter:
    """Counts FLOPs (matrix products, convolutions, attention) and bytes read and written.

    A byte is counted for every element that an operation reads or writes, as if nothing stayed in a
    cache and no two operations were fused; views are free.
    """

    def __init__(self) -> None:
        self._flops = FlopCounterMode(display=False, custom_mapping=_FURTHER)
        self._bytes = _ByteMode()

    def __enter__(self) -> Counter:
        self._flops.__enter__()
        self._bytes.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._bytes.__exit__(*error)
        self._flops.__exit__(*error)

    @property
    def flops(self) -> int:
        """Of matrix products, convolutions and attention so far."""
        return int(self._flops.get_total_flops())

    @property
    def bytes(self) -> int:
        """Read and written so far."""
        return self._bytes.total


class _ByteMode(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        written = _size(out)
        if written and not _is_view(func):
            gathers = str(func.overloadpacket) in _GATHERS
            self.total += written + (written if gathers else _size((args, kwargs)))
        return out


def _is_view(func: Any) -> bool:
    if str(func.overloadpacket) == "aten._unsafe_view":
        return True
    returns = func._schema.returns
    return bool(returns) and all(
        r.alias_info is not None and not r.alias_info.is_write for r in returns
    )


def _size(tree: Any) -> int:
    return sum(
        leaf.numel() * leaf.element_size() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)
    )


def resident_bytes(name: str) -> int:
    """A line of Linux's account of this process: VmRSS = resident now, VmHWM = at its highest."""
    with open("/proc/self/status", encoding="utf-8") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def forget_peak() -> None:
    """Start VmHWM anew from what is resident now (Linux)."""
    with open("/proc/self/clear_refs", "w", encoding="utf-8") as file:
        file.write("5")
