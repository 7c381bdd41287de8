"""`attach`: objectives in a Hugging Face speech language model, in any loop that trains it."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from otreg.forwards import OwnPort, Reference, run_forwards
from otreg.integrations.families import unwrapped
from otreg.integrations.port import OURS, ForeignPort
from otreg.objectives import Objective, Term
from otreg.objectives.base import OnPair, lifted
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

        handle = attach(model, OTReg(), weight=0.3)
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


class Handle:
    """What `attach` gives: the objectives on a model.

    Attributes:
        terms: of the last training pass, detached: the objectives' mean losses by name, their terms
            as "name/term".
        loss: () what was added to the model's loss; None before the first training pass.
    """

    def __init__(
        self,
        model: nn.Module,
        objectives: Mapping[str, tuple[Objective, float]],
        *,
        processor: Any,
        text: str | None,
        audio_token_id: int | None,
        reference: Reference | None,
        seed: int,
    ) -> None:
        own = unwrapped(model)
        if isinstance(own.__dict__.get("forward"), _AttachedForward):
            raise ValueError(
                f"this {type(own).__name__} is attached to already; give attach() all objectives at "
                "once, or call detach() on the first handle"
            )
        for name, (one, _) in objectives.items():
            if isinstance(one, nn.Module) and any(True for _ in one.parameters()):
                raise ValueError(
                    f"objective {name!r} has parameters of its own, which no optimiser of yours would "
                    "train; use an objective without, such as CTC(tied=True)"
                )
        self.objectives = objectives
        kept = [o for o, weight in objectives.values() if weight > 0]
        self.needs = frozenset[str]().union(*(getattr(o, "needs", ()) for o in kept))
        self.layers = frozenset[int]().union(*(getattr(o, "layers", ()) for o in kept))
        self.terms: dict[str, Tensor] = {}
        self.loss: Tensor | None = None
        self.seed = seed
        self.port: Any
        if getattr(own.config, "model_type", None) == "otreg_speech_lm":
            self.port = _OwnPort(own)
        else:
            self.port = ForeignPort(
                own, processor=processor, text=text, audio_token_id=audio_token_id
            )
        if reference is None and any(need.startswith("reference") for need in self.needs):
            reference = Reference(own)
        self.reference = reference
        self._counts: dict[str, float] = {}
        self._factor = 1.0
        self._step_ids: Tensor | None = None
        self._num_steps = 0
        self._is_collecting = False
        self._forward = _AttachedForward(own, self)
        own.forward = self._forward

    def begin_step(
        self,
        *,
        num_utterances: int | None = None,
        batches: Iterable[Mapping[str, Any]] | None = None,
    ) -> None:
        """Say what the next optimiser step holds, so that its loss does not depend on its cuts.

        Until the next call each micro-batch then adds weight * (sum of its losses) / N, N the whole
        step's utterances, over all its micro-batches and ranks: do not divide by the number of
        micro-batches again. Where torch.distributed runs, gradients are taken to be averaged over
        its ranks, as DistributedDataParallel and FSDP do.

        Args:
            num_utterances: N, over all ranks. Enough where all objectives count utterances and none
                draws from the vocabulary.
            batches: this rank's micro-batches of the step, in place of num_utterances: whatever the
                objectives count is counted over all ranks, and the step's transcripts are gathered;
                every rank must call this.

        Raises:
            ValueError: neither or both are given, or an objective counts something else.
        """
        if (num_utterances is None) == (batches is None):
            raise ValueError("give begin_step either num_utterances or batches")
        is_distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        num_ranks = torch.distributed.get_world_size() if is_distributed else 1
        if batches is not None:
            full = [self.port.completed(batch) for batch in batches]
            counts, ids = self.counts(full), transcripts_of(full)
            if num_ranks > 1:
                counts, ids = over_ranks(counts, ids, num_ranks)
            self.set_step(counts, ids, num_ranks)
            return
        assert num_utterances is not None
        if num_utterances < 1:
            raise ValueError(f"num_utterances must be at least 1, got {num_utterances}")
        for name, (objective, _) in self._active():
            if not isinstance(objective, OnPair):
                raise ValueError(
                    f"objective {name!r} does not count utterances; pass begin_step(batches=…)"
                )
        self.set_step(dict.fromkeys(self.objectives, float(num_utterances)), None, num_ranks)

    def counts(self, batches: Iterable[Mapping[str, Any]]) -> dict[str, float]:
        """What each objective counts in some batches."""
        full = [self.port.completed(batch) for batch in batches]
        return {
            name: float(sum(int(objective.count(batch)) for batch in full))
            for name, (objective, _) in self._active()
        }

    def set_step(
        self, counts: Mapping[str, float], step_ids: Tensor | None, factor: float = 1
    ) -> None:
        """Begin a step with known denominators, which is what `begin_step` and the trainers do.

        Args:
            counts: what each objective counts in the step, over all ranks.
            step_ids: (k,) distinct ids of its transcripts; None = each micro-batch's own.
            factor: by what is added to the loss is multiplied: the ranks over which gradients are
                averaged.
        """
        self._num_steps += 1
        self._counts = {name: max(1.0, count) for name, count in counts.items()}
        self._step_ids, self._factor = step_ids, factor

    def detach(self) -> None:
        """Leave the model as it was before `attach`."""
        self.port.detach()
        self._forward.remove()

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Leave the model's loss as it is in these passes; `loss` alone holds what is to be added."""
        self._is_collecting = True
        try:
            yield
        finally:
            self._is_collecting = False

    def on_top(self) -> None:
        """Stand in front of what has replaced the model's forward since: TRL does, in its trainers."""
        model = self.port.model
        if model.__dict__.get("forward") is not self._forward:
            self._forward.handle = None
            self._forward = _AttachedForward(model, self)
            model.forward = self._forward

    def _active(self) -> list[tuple[str, tuple[Objective, float]]]:
        return [(name, pair) for name, pair in self.objectives.items() if pair[1] > 0]

    def is_active(self) -> bool:
        """Whether a forward pass of the model is now one to add to."""
        return bool(self._active()) and self.port.model.training and torch.is_grad_enabled()

    def run(self, original: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """One training pass: the model's output with the objectives in its loss."""
        batch = self.port.completed(arguments)
        options = {k: v for k, v in arguments.items() if not isinstance(v, Tensor)}
        options.pop(self.port.text_key, None)
        given = {k: v for k, v in arguments.items() if k == "labels"}
        held: dict[str, Any] = {}

        def call(**inputs: Any) -> Any:
            inputs = options | given | inputs
            held["output"] = original(**inputs)
            return held["output"]

        tensors = {k: v for k, v in batch.items() if isinstance(v, Tensor)}
        tensors.pop(self.port.text_key, None)
        view = run_forwards(
            self.port,
            tensors,
            needs=self.needs,
            layers=self.layers,
            reference=self.reference,
            call=call,
            step_ids=self._ids_on(batch["input_ids"].device),
            draw_seed=self._draw_seed(),
        )
        output = held["output"]
        self.loss = self._total(view)
        if output.get("loss") is not None and not self._is_collecting:
            output.loss = output.loss + self.loss.to(output.loss)
        if self.layers and not arguments.get("output_hidden_states"):
            output.hidden_states = None
        return output

    def _ids_on(self, device: torch.device) -> Tensor | None:
        return None if self._step_ids is None else self._step_ids.to(device)

    @torch.compiler.disable
    def _total(self, view: Any) -> Tensor:
        """The weighted losses, and `terms`."""
        total: Any = 0.0
        self.terms = {}
        for name, (objective, weight) in self._active():
            term: Term = objective(view)
            count = objective.count(view.batch).clamp(min=1)
            share = self._factor / self._counts[name] if name in self._counts else 1 / count
            total = total + weight * term.total * share
            self.terms[name] = (term.total / count).detach()
            for part, values in term.terms.items():
                self.terms[f"{name}/{part}"] = values.detach().float().mean()
        result: Tensor = total
        return result

    def _draw_seed(self) -> int | None:
        """Seeds what objectives draw: the same in a step, where steps are begun."""
        if "step_ids" not in self.needs:
            return None
        if not self._counts:
            self._num_steps += 1
        text = f"{self.seed} {self._num_steps}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


class _OwnPort(OwnPort):
    """otreg's own model: its collator's batches are complete."""

    text_key = "text_ids"

    def completed(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        return dict(batch)

    def detach(self) -> None:
        """There are no hooks."""


class _AttachedForward:
    """Stands in a model's `forward`; a copy of the model has its own forward, without objectives."""

    def __init__(self, model: nn.Module, handle: Handle) -> None:
        self.model = model
        self.handle: Handle | None = handle
        self.before = model.__dict__.get("forward")
        self.original: Callable[..., Any] = model.forward
        self.signature = inspect.signature(self.original)
        functools.update_wrapper(self, self.original)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        handle = self.handle
        if handle is None or not handle.is_active():
            for name in OURS:
                kwargs.pop(name, None)
            if handle is not None and handle.port.text_key is not None:
                kwargs.pop(handle.port.text_key, None)
            return self.original(*args, **kwargs)
        names = [name for name in self.signature.parameters if name != "self"]
        arguments = dict(zip(names, args, strict=False)) | kwargs
        return handle.run(self.original, arguments)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = memo.get(id(self.model))
        if copied is None:
            return self
        return self.before if self.before is not None else type(copied).forward.__get__(copied)

    def remove(self) -> None:
        """Give the model its forward back; inside of another's wrapper, only pass on."""
        self.handle = None
        if self.model.__dict__.get("forward") is self:
            del self.model.forward
            if self.before is not None:
                self.model.forward = self.before


def over_ranks(
    counts: Mapping[str, float], ids: Tensor | None, num_ranks: int
) -> tuple[dict[str, float], Tensor | None]:
    """Counts summed and ids joined over all ranks."""
    found: list[Any] = [None] * num_ranks
    own = [] if ids is None else ids.tolist()
    torch.distributed.all_gather_object(found, (dict(counts), own))
    total = {name: sum(rank_counts[name] for rank_counts, _ in found) for name in counts}
    joined = sorted({token for _, tokens in found for token in tokens})
    return total, torch.tensor(joined) if joined else None


def transcripts_of(batches: Iterable[Mapping[str, Any]]) -> Tensor | None:
    """(k,) sorted distinct ids of the transcripts of complete batches; None without any."""
    found = [batch["text_ids"][batch["text_mask"]] for batch in batches if "text_ids" in batch]
    return torch.cat(found).unique() if found else None


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
