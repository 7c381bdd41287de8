"""`attach`: objectives in a Hugging Face speech language model, in any loop that trains it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from otreg.forwards import Reference
from otreg.integrations.handle import Handle
from otreg.objectives import Objective
from otreg.objectives.base import lifted
from otreg.objectives.options import check_at_least_zero

Weighted = Mapping[str, tuple[Any, float]]


def attach(
    model: nn.Module,
    objective: Any | Weighted,
    *,
    weight: float | None = None,
    processor: Any = None,
    text: str | None = None,
    audio_token_id: int | None = None,
    reference: Reference | None = None,
    seed: int = 0,
) -> Handle:
    """Add objectives to a model's own loss, in training; at inference nothing changes.

    loss = the model's loss + sum over objectives of weight * mean of its losses

    The mean is over the micro-batch's utterances (clips with a transcript); `Handle.begin_step` makes
    it the optimiser step's. `handle.detach()` leaves the model as it was.

    Args:
        model: any Hugging Face speech language model of a family in the README's table, before or
            after PEFT, DistributedDataParallel or torch.compile wrap it.
        objective: `OTReg()`, a callable on pairs, or an objective on views; or several: name ->
            (objective, weight).
        weight: of the one objective; 0 leaves it out of the computation.
        processor: the model's processor or tokenizer. Needed where transcripts are strings; else it
            only tells more surely which tokens are special.
        text: the batch's key that holds the transcripts, strings or ids, one a clip; taken out of the
            batch before the model sees it. None = the labels, right where the task is transcription.
        audio_token_id: the placeholder of speech, where the configuration does not say it.
        reference: the weights at the start, for objectives that look back at them; None = a copy of
            what trains is made now, where an objective needs one.
        seed: of what objectives draw.

    Returns:
        The handle; `handle.terms` holds the last losses and terms.

    Raises:
        UnsupportedModelError: the model's speech cannot be found.
        ValueError: a weight is missing, negative or not finite, or the model is attached to already.

    Example::

        handle = attach(model.train(), OTReg(), weight=0.3)
        loss = model(**batch).loss      # has it inside
    """
    return Handle(
        model,
        _weighted(objective, weight),
        processor=processor,
        text=text,
        audio_token_id=audio_token_id,
        reference=reference,
        seed=seed,
    )


def _weighted(
    objective: Any | Weighted, weight: float | None
) -> dict[str, tuple[Objective, float]]:
    if not isinstance(objective, Mapping):
        if weight is None:
            raise ValueError(
                "attach() needs weight=, the coefficient of the objective; 0.3 is usual"
            )
        objective = {type(objective).__name__.lower(): (objective, weight)}
    elif weight is not None:
        raise ValueError(
            "weight= goes with one objective; several bring theirs: name: (objective, 0.3)"
        )
    found = {}
    for name, (one, coefficient) in objective.items():
        check_at_least_zero(f"weight of {name}", coefficient)
        found[name] = (lifted(one), float(coefficient))
    if not found:
        raise ValueError("attach() needs at least one objective")
    return found
