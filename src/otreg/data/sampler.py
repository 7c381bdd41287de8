"""Batches by token budget: map-style, decided by (seed, epoch), able to resume."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler

_SHUFFLE_WINDOW_BATCHES = 20


class TokenBudgetBatchSampler(Sampler[list[int]]):
    """Group items of like length so that every padded batch stays within a budget.

    A batch costs what its padded tensor holds, `items * longest item`, and every index stands in
    exactly one batch of an epoch. With shuffle, items are permuted, sorted by length within
    windows of some twenty batches (little padding, yet other neighbours in each epoch), cut into
    batches, and the batches are permuted; all of it follows from (seed, epoch) alone. Without
    shuffle the items keep their order.

    Example:
        >>> sampler = TokenBudgetBatchSampler([3, 9, 4, 8], max_tokens=16, shuffle=False)
        >>> list(sampler)
        [[0], [1], [2, 3]]

    Args:
        lengths: tokens of each item (speech frames and text together), at least 1 each;
            `SpeechTextDataset.lengths()` gives them.
        max_tokens: budget of a padded batch, in tokens.
        shuffle: whether the order changes from epoch to epoch.
        seed: decides the order together with the epoch.
        max_items: most items in a batch; None = as many as the budget holds.

    Raises:
        ValueError: for an item above the budget, naming it, and for values out of range.

    """

    def __init__(
        self,
        lengths: Sequence[int],
        max_tokens: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        max_items: int | None = None,
    ) -> None:
        self.lengths = np.asarray(lengths, dtype=np.int64)
        if self.lengths.ndim != 1 or self.lengths.size == 0:
            raise ValueError(
                f"expected lengths (items,) with at least one item, received shape "
                f"{self.lengths.shape}"
            )
        if not np.array_equal(self.lengths, np.asarray(lengths)):
            raise ValueError("lengths must be whole numbers of tokens")
        if self.lengths.min() < 1:
            index = int(self.lengths.argmin())
            raise ValueError(f"item {index} has length {self.lengths[index]}; expected at least 1")
        if self.lengths.max() > max_tokens:
            index = int(self.lengths.argmax())
            raise ValueError(
                f"item {index} has {self.lengths[index]} tokens, above the budget max_tokens "
                f"{max_tokens} ({int((self.lengths > max_tokens).sum())} such items); "
                "raise max_tokens, or cut the utterance with start_s and end_s"
            )
        if max_items is not None and max_items < 1:
            raise ValueError(f"max_items must be at least 1 or None, received {max_items}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, received {seed}")
        self.max_tokens = int(max_tokens)
        self.shuffle = shuffle
        self.seed = seed
        self.max_items = max_items
        self.epoch = 0
        self._first_batch = 0
        self._num_yielded = 0
        self._plan: tuple[int, list[list[int]]] | None = None

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the epoch's batches, from where `load_state_dict` put us, then from the start."""
        first, self._first_batch = self._first_batch, 0
        self._num_yielded = first
        for batch in self.batches()[first:]:
            self._num_yielded += 1
            yield list(batch)

    def __len__(self) -> int:
        """Return the number of batches in the whole of the present epoch."""
        return len(self.batches())

    def batches(self) -> list[list[int]]:
        """Return all batches of the present epoch."""
        if self._plan is None or self._plan[0] != self.epoch:
            self._plan = (self.epoch, self._make_batches())
        return self._plan[1]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0; a position that was loaded for another epoch is given up."""
        if epoch < 0:
            raise ValueError(f"epoch must not be negative, received {epoch}")
        if epoch != self.epoch:
            self._first_batch = 0
            self._num_yielded = 0
        self.epoch = epoch

    def state_dict(self, *, num_batches: int | None = None) -> dict[str, Any]:
        """Return the position, to resume from.

        Args:
            num_batches: batches of this epoch that were trained on. None counts the batches that
                were handed out, which runs ahead of training when a DataLoader prefetches.

        """
        done = self._num_yielded if num_batches is None else num_batches
        if not 0 <= done <= len(self):
            raise ValueError(f"num_batches must be 0 to {len(self)}, received {done}")
        return {"epoch": self.epoch, "num_batches": done, "fingerprint": self._fingerprint()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position that `state_dict` returned; the next iteration starts there.

        Raises:
            ValueError: when lengths, budget, seed or shuffling differ from the state's, for then
                its position would replay some items and lose others.

        """
        if state["fingerprint"] != self._fingerprint():
            raise ValueError(
                "cannot resume: the sampler's lengths, max_tokens, max_items, shuffle or seed "
                "differ from those that the state was saved with; restore them, or start anew"
            )
        self.set_epoch(int(state["epoch"]))
        self._first_batch = self._num_yielded = int(state["num_batches"])

    def _make_batches(self) -> list[list[int]]:
        order = np.arange(self.lengths.size)
        if not self.shuffle:
            return self._cut(order)
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(order)
        per_batch = max(1, int(self.max_tokens / self.lengths.mean()))
        if self.max_items is not None:
            per_batch = min(per_batch, self.max_items)
        window = per_batch * _SHUFFLE_WINDOW_BATCHES
        order = np.concatenate(
            [
                part[np.argsort(self.lengths[part], kind="stable")]
                for part in np.split(order, range(window, order.size, window))
            ]
        )
        batches = self._cut(order)
        return [batches[position] for position in rng.permutation(len(batches))]

    def _cut(self, order: np.ndarray) -> list[list[int]]:
        """Cut an order into the longest runs that fit the budget."""
        batches: list[list[int]] = []
        batch: list[int] = []
        longest = 0
        most = self.max_items or order.size
        for index in order.tolist():
            longer = max(longest, int(self.lengths[index]))
            if batch and (longer * (len(batch) + 1) > self.max_tokens or len(batch) == most):
                batches.append(batch)
                batch, longer = [], int(self.lengths[index])
            batch.append(index)
            longest = longer
        batches.append(batch)
        return batches

    def _fingerprint(self) -> str:
        options = (self.max_tokens, self.max_items, self.shuffle, self.seed)
        digest = hashlib.sha256(repr(options).encode())
        digest.update(self.lengths.astype("<i8").tobytes())
        return digest.hexdigest()
