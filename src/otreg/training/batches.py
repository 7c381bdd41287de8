"""Token-budget batches of which every epoch has the same number."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler

from otreg.data import TokenBudgetBatchSampler

__all__ = ["EqualEpochs"]


class EqualEpochs(Sampler[list[int]]):
    """A token-budget sampler whose epochs all have as many batches as the longest.

    Trainer takes the first epoch's number of batches for that of every epoch: it would drop the
    batches beyond it, and count a resumed run's position wrong. Shorter epochs get there by halving
    their largest batches, so every utterance still comes once an epoch, within the budget.

    Args:
        lengths: tokens of each utterance.
        max_tokens: budget of a padded batch.
        seed: decides the order together with the epoch.
        num_batches: micro-batches of the stage over all ranks; None when `num_epochs` is given.
        num_epochs: passes over the data; None when `num_batches` is given.
        world_size: ranks; the number of batches is a multiple of it where there are enough
            utterances.

    Raises:
        ValueError: an utterance above the budget.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        max_tokens: int,
        *,
        seed: int,
        num_batches: int | None = None,
        num_epochs: float | None = None,
        world_size: int = 1,
    ) -> None:
        self.sampler = TokenBudgetBatchSampler(lengths, max_tokens, seed=seed)
        if num_epochs is None:
            num_epochs = (num_batches or 0) / max(1, len(self.sampler))
        longest = 0
        for epoch in range(max(1, math.ceil(num_epochs))):
            self.sampler.set_epoch(epoch)
            longest = max(longest, len(self.sampler))
        self.sampler.set_epoch(0)
        even = math.ceil(longest / world_size) * world_size
        self._length = min(even, len(self.sampler.lengths))

    def __len__(self) -> int:
        """The number of batches of every epoch."""
        return self._length

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of the present epoch."""
        batches = [list(batch) for batch in self.sampler.batches()]
        while len(batches) < self._length:
            largest = max(range(len(batches)), key=lambda index: len(batches[index]))
            batch = batches[largest]
            half = len(batch) // 2
            batches[largest : largest + 1] = [batch[:half], batch[half:]]
        yield from batches[: self._length]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0."""
        self.sampler.set_epoch(epoch)
