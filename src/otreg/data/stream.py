"""Streams of utterances to model inputs: an iterable dataset."""

from __future__ import annotations

from collections.abc import Iterator

import torch.distributed
from torch.utils.data import IterableDataset, get_worker_info

from otreg.data.audio import MAX_DURATION_S
from otreg.data.augment import Augmentation
from otreg.data.dataset import Example, Processor, SpeechTextDataset
from otreg.data.interleave import Interleaving
from otreg.data.segments import row_of
from otreg.data.sources import UtteranceStream


class SpeechTextStream(IterableDataset[Example]):
    """The examples of a stream, each as `SpeechTextDataset` would give it.

    Ranks and the workers of a DataLoader share the utterances out: together they give each once a
    pass. There is no length, so neither a token budget nor an encoder cache.

    Args:
        stream: from `open_stream`.
        processor: as for `SpeechTextDataset`.
        max_duration_s: as for `SpeechTextDataset`.
        interleaving: as for `SpeechTextDataset`.
        shuffle_buffer: utterances among which the next is drawn; 0 = in the stream's order.
        seed: of the draws, together with the pass.
        augmentation: as for `SpeechTextDataset`; its epoch is the pass.
        repeat: begin the next pass when one ends, and never stop; for training by steps.
        rank: which share is ours; None = as torch.distributed says, all without it.
        num_ranks: how many shares there are; None = likewise.

    Raises:
        ValueError: numbers out of range.

    """

    def __init__(
        self,
        stream: UtteranceStream,
        processor: Processor,
        *,
        max_duration_s: float = MAX_DURATION_S,
        interleaving: Interleaving | None = None,
        shuffle_buffer: int = 0,
        seed: int = 0,
        repeat: bool = False,
        rank: int | None = None,
        num_ranks: int | None = None,
        augmentation: Augmentation | None = None,
    ) -> None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if num_ranks is None:
            num_ranks = torch.distributed.get_world_size() if distributed else 1
        if rank is None:
            rank = torch.distributed.get_rank() if distributed else 0
        if not 0 <= rank < num_ranks or shuffle_buffer < 0:
            raise ValueError(
                "expected 0 <= rank < num_ranks and shuffle_buffer of at least 0, received "
                f"{rank}, {num_ranks} and {shuffle_buffer}"
            )
        self.stream = stream
        self.processor = processor
        self.max_duration_s = max_duration_s
        self.interleaving = interleaving
        self.shuffle_buffer = shuffle_buffer
        self.seed = seed
        self.repeat = repeat
        self.rank = rank
        self.num_ranks = num_ranks
        self.augmentation = augmentation
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the pass that the next iteration starts with, from 0."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Example]:
        """Yield our share of the examples.

        Raises:
            ManifestError: naming a row that cannot be used, or when the share is empty and is to be
                repeated.
            AudioError: for audio that cannot be used.

        """
        worker = get_worker_info()
        workers, number = (1, 0) if worker is None else (worker.num_workers, worker.id)
        part, epoch = self.rank * workers + number, self.epoch
        loader: SpeechTextDataset | None = None
        while True:
            found = False
            for utterance in self.stream.part(
                part,
                self.num_ranks * workers,
                shuffle_buffer=self.shuffle_buffer,
                seed=self.seed,
                epoch=epoch,
            ):
                if loader is None:
                    loader = SpeechTextDataset(
                        [utterance],
                        self.processor,
                        max_duration_s=self.max_duration_s,
                        augmentation=self.augmentation,
                    )
                if not found:
                    loader.set_epoch(epoch)
                found = True
                yield loader.example((self.interleaving or row_of)(utterance), utterance.speaker)
            if not self.repeat:
                return
            if not found:
                raise ValueError(
                    f"{self.stream.name}: there is nothing for part {part} of "
                    f"{self.num_ranks * workers}; use fewer workers"
                )
            epoch += 1
