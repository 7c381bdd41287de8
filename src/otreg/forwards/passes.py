"""Run what objectives need of a step, and nothing else.

| pass | rows | weights | gradient | dropout, soft dropping |
|---|---|---|---|---|
| speech | the batch | present | yes | as the model's mode says |
| text | its twin | present | no | none |
| reference_speech | the batch | the stage's start | no | none; frames are dropped for real |
| reference_text | its twin | the stage's start | no | none |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from otreg.forwards.port import Call, Port, port_of
from otreg.forwards.reference import Reference
from otreg.forwards.twin import Twin, twin_of
from otreg.model.evaluation_mode import evaluating
from otreg.objectives.base import NEEDS, View

_TWIN_NEEDS = frozenset({"text", "reference_text"})


def run_forwards(
    model: Any,
    batch: Mapping[str, Any],
    *,
    needs: Iterable[str] = (),
    layers: Iterable[int] = (),
    reference: Reference | None = None,
    call: Call | None = None,
    step_ids: Tensor | None = None,
    draw_seed: int | None = None,
) -> View:
    """Run the passes that are needed on one batch.

    Args:
        model: a `SpeechLMForConditionalGeneration`, or the `Port` of any other.
        batch: as the collator makes it, on the model's device.
        needs: of `otreg.objectives.base.NEEDS`.
        layers: hidden states that are read; any makes all be kept.
        reference: the weights at the stage's start; needed for the reference passes.
        call: takes the speech pass in the model's place: the model as it is trained, in
            DistributedDataParallel for instance. None = the model itself.
        step_ids: as in `View`.
        draw_seed: as in `View`.

    Returns:
        The view.

    Raises:
        ValueError: an unknown need, a reference pass without a reference, or a twin of clips without
            transcripts.
    """
    needs = frozenset(needs)
    unknown = sorted(needs - set(NEEDS))
    if unknown:
        raise ValueError(f"unknown need {unknown[0]!r}; objectives can need {', '.join(NEEDS)}")
    port = port_of(model)
    states = bool(list(layers))
    twin = twin_of(batch, port.pad_token_id) if needs & _TWIN_NEEDS else None
    passes = {}
    # The passes without gradient come first, so that nothing of the graph sees other weights.
    for name in sorted(needs & {"text", "reference_speech", "reference_text"}):
        passes[name] = _without_gradient(port, batch, twin, name, reference, states)
    speech = port.speech(batch, port.model if call is None else call, states=states)
    index = None
    if twin is not None:
        source = speech.source_index
        assert source is not None
        index = torch.where(source >= 0, twin.index.gather(1, source.clamp_min(0)), -1)
    return View(
        batch,
        speech,
        **passes,
        twin_index=index,
        twin_clips=None if twin is None else twin.clips,
        vocabulary=port.vocabulary(),
        step_ids=step_ids,
        draw_seed=draw_seed,
    )


def _without_gradient(
    port: Port,
    batch: Mapping[str, Any],
    twin: Twin | None,
    name: str,
    reference: Reference | None,
    states: bool,
) -> Any:
    """One pass in evaluation mode, by present or former weights."""
    former: Any = nullcontext()
    if name.startswith("reference"):
        if reference is None:
            raise ValueError(f"the pass {name!r} needs the weights at the stage's start; pass one")
        former = reference.weights()
    with torch.no_grad(), evaluating(port.model), former:
        if name.endswith("speech"):
            return port.speech(batch, port.model, states=states)
        assert twin is not None
        return port.text(twin, states=states)
