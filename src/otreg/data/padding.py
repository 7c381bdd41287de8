"""Padding rows of different lengths into one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def pad_ids(rows: Sequence[Sequence[int]], value: int, *, left: bool = False) -> Tensor:
    """Pad lists of ids to one length.

    Args:
        rows: ids of each row; a row may be empty.
        value: fills the rest.
        left: pad on the left.

    Returns:
        (rows, longest) long; longest is at least 1.
    """
    size = max(1, *(len(row) for row in rows)) if rows else 1
    ids = torch.full((len(rows), size), value, dtype=torch.long)
    for i, row in enumerate(rows):
        columns = slice(size - len(row), size) if left else slice(0, len(row))
        ids[i, columns] = torch.tensor(row, dtype=torch.long)
    return ids


def pad_stack(arrays: Sequence[np.ndarray | Tensor]) -> tuple[Tensor, Tensor]:
    """Stack (time, ...) arrays of different lengths, with zeros on the right.

    Returns:
        The stack (arrays, longest time, ...) and its mask (arrays, longest time), True = real.

    Raises:
        ValueError: when the arrays differ in more than their first axis.
    """
    tensors = [torch.as_tensor(array) for array in arrays]
    shapes = {tuple(tensor.shape[1:]) for tensor in tensors}
    if len(shapes) > 1:
        raise ValueError(
            f"expected arrays that differ in length alone, received the further axes "
            f"{sorted(shapes)}; is the encoder cache another encoder's?"
        )
    lengths = torch.tensor([len(tensor) for tensor in tensors])
    stack = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)
    return stack, torch.arange(stack.shape[1])[None, :] < lengths[:, None]
