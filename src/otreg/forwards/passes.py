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

from otreg.forwards.reference import Reference
from otreg.forwards.twin import Twin, twin_of
from otreg.model.evaluation_mode import evaluating
from otreg.model.merging import labels_at
from otreg.objectives.base import NEEDS, View, Vocabulary

_NOT_OF_THE_MODEL = ("labels", "text_ids", "text_mask")
_TWIN_NEEDS = frozenset({"text", "reference_text"})


def run_forwards(
    model: Any,
    batch: Mapping[str, Tensor],
    *,
    needs: Iterable[str] = (),
    layers: Iterable[int] = (),
    reference: Reference | None = None,
    wrapped: Any = None,
    step_ids: Tensor | None = None,
    draw_seed: int | None = None,
) -> View:
    """Run the passes that are needed on one batch.

    Args:
        model: a `SpeechLMForConditionalGeneration`.
        batch: as the collator makes it, on the model's device.
        needs: of `otreg.objectives.base.NEEDS`.
        layers: hidden states that are read; any makes all be kept.
        reference: the weights at the stage's start; needed for the reference passes.
        wrapped: the model as it is trained, in DistributedDataParallel for instance; takes the
            speech pass. None = the model itself.
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
    states = {"output_hidden_states": True} if list(layers) else {}
    twin = twin_of(batch, model.config.pad_token_id) if needs & _TWIN_NEEDS else None
    passes = {}
    # The passes without gradient come first, so that nothing of the graph sees other weights.
    for name in sorted(needs & {"text", "reference_speech", "reference_text"}):
        passes[name] = _without_gradient(model, batch, twin, name, reference, states)
    inputs = {name: value for name, value in batch.items() if name not in _NOT_OF_THE_MODEL}
    speech = (model if wrapped is None else wrapped)(**inputs, **states)
    speech.labels = _labels(batch, speech)
    index = None
    if twin is not None:
        source = speech.source_index
        index = torch.where(source >= 0, twin.index.gather(1, source.clamp_min(0)), -1)
    return View(
        batch,
        speech,
        **passes,
        twin_index=index,
        twin_clips=None if twin is None else twin.clips,
        vocabulary=_vocabulary(model),
        step_ids=step_ids,
        draw_seed=draw_seed,
    )


def _without_gradient(
    model: Any,
    batch: Mapping[str, Tensor],
    twin: Twin | None,
    name: str,
    reference: Reference | None,
    states: dict[str, Any],
) -> Any:
    """One pass in evaluation mode, by present or former weights."""
    former: Any = nullcontext()
    if name.startswith("reference"):
        if reference is None:
            raise ValueError(f"the pass {name!r} needs the weights at the stage's start; pass one")
        former = reference.weights()
    with torch.no_grad(), evaluating(model), former:
        if name.endswith("speech"):
            inputs = {k: value for k, value in batch.items() if k not in _NOT_OF_THE_MODEL}
            output = model(**inputs, **states)
            output.labels = _labels(batch, output)
            return output
        assert twin is not None
        output = model(input_ids=twin.input_ids, attention_mask=twin.attention_mask, **states)
        output.labels = twin.labels
        return output


def _labels(batch: Mapping[str, Tensor], output: Any) -> Tensor | None:
    """The batch's labels where the output's positions now stand."""
    labels = batch.get("labels")
    return None if labels is None else labels_at(labels, output.source_index)


def _vocabulary(model: Any) -> Vocabulary:
    embedding = model.get_input_embeddings()

    def embed(ids: Tensor) -> Tensor:
        with torch.no_grad():
            rows: Tensor = embedding(ids)
        return rows

    return Vocabulary(embed, embedding.weight.detach(), model.config.pad_token_id)
