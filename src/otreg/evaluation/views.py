"""Views of a whole data set, batch by batch, for measures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from otreg.data.collate import SpeechTextCollator
from otreg.data.dataset import SpeechTextDataset
from otreg.forwards import port_of, run_forwards
from otreg.model.evaluation_mode import evaluating
from otreg.objectives import View

Change = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


def views(
    model: Any,
    processor: Any,
    dataset: SpeechTextDataset,
    *,
    batch_size: int = 16,
    needs: Iterable[str] = (),
    layers: Iterable[int] = (),
    change: Change | None = None,
) -> Iterator[View]:
    """Run the passes over a data set in evaluation mode, without gradient.

    Args:
        model: a `SpeechLMForConditionalGeneration`.
        processor: its `SpeechLMProcessor`.
        dataset: the rows, in whose order the views come.
        batch_size: rows of a view.
        needs: as for `run_forwards`.
        layers: as for `run_forwards`.
        change: made to each batch before the passes, for controls; None = nothing.
    """
    collator, port = SpeechTextCollator(processor), port_of(model, processor)
    with evaluating(model), torch.no_grad():
        for first in range(0, len(dataset), batch_size):
            last = min(first + batch_size, len(dataset))
            batch = port.completed(collator([dataset[row] for row in range(first, last)]))
            batch = {name: value.to(model.device) for name, value in batch.items()}
            batch = batch if change is None else change(batch)
            yield run_forwards(port, batch, needs=needs, layers=layers)
