"""Utterances that come one after the other, in shards that ranks and workers share out."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import chain, islice

from otreg.data.utterance import Utterance


class UtteranceStream(ABC):
    """Utterances whose number is not known, such as a streamed data set of the Hub.

    Ids are not compared with each other: that would keep them all in memory.

    Args:
        name: how errors call it.
        num_shards: the pieces that it can be read in, each for itself.

    """

    def __init__(self, name: str, num_shards: int) -> None:
        self.name = name
        self.num_shards = num_shards

    @abstractmethod
    def shard(self, index: int) -> Iterator[Utterance]:
        """Read one piece from its start; its utterances do not depend on who reads it.

        Raises:
            ManifestError: naming the row, for one that cannot be used.

        """

    def __iter__(self) -> Iterator[Utterance]:
        """Read all of it, in order."""
        return self.part(0, 1)

    def part(
        self,
        index: int,
        num_parts: int,
        *,
        shuffle_buffer: int = 0,
        seed: int = 0,
        epoch: int = 0,
    ) -> Iterator[Utterance]:
        """Read one of several parts that together hold every utterance once.

        Whole shards go round where there are enough of them; otherwise every part reads all shards
        and keeps each num_parts-th utterance.

        Args:
            index: which part, from 0.
            num_parts: how many.
            shuffle_buffer: utterances among which the next is drawn, after the shards were permuted;
                0 = in order. All of it follows from (seed, epoch, index, num_parts).
            seed: of the draws.
            epoch: of the draws.

        """
        order = list(range(self.num_shards))
        if shuffle_buffer:
            random.Random(f"{seed} {epoch}").shuffle(order)
        if self.num_shards >= num_parts:
            found = chain.from_iterable(map(self.shard, order[index::num_parts]))
        else:
            every = chain.from_iterable(map(self.shard, order))
            found = islice(every, index, None, num_parts)  # type: ignore[assignment]
        if not shuffle_buffer:
            return iter(found)
        return _drawn(iter(found), shuffle_buffer, random.Random(f"{seed} {epoch} {index}"))


def _drawn(rows: Iterator[Utterance], size: int, rng: random.Random) -> Iterator[Utterance]:
    """Draw each utterance among the next `size` that are left."""
    held = list(islice(rows, size))
    for row in rows:
        place = rng.randrange(len(held))
        yield held[place]
        held[place] = row
    rng.shuffle(held)
    yield from held
