"""What `attach` gives: objectives on a model, and what an optimiser step holds for them."""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from otreg.forwards import OwnPort, Reference, draw_seed, run_forwards, transcript_ids
from otreg.integrations.attached_forward import AttachedForward
from otreg.integrations.families import unwrapped
from otreg.integrations.port import ForeignPort
from otreg.objectives import Objective, Term
from otreg.objectives.base import OnPair

logger = logging.getLogger(__name__)


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
        if own in _ATTACHED:
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
        if getattr(getattr(own, "config", None), "model_type", None) == "otreg_speech_lm":
            self.port = _OwnPort(own)
        else:
            self.port = ForeignPort(
                own, processor=processor, text=text, audio_token_id=audio_token_id
            )
        if reference is None and any(need.startswith("reference") for need in self.needs):
            reference = Reference(own)
        self.reference = reference
        self._trained = _trained(own)
        self._counts: dict[str, float] = {}
        self._factor = 1.0
        self._step_ids: Tensor | None = None
        self._num_steps = 0
        self._is_collecting = False
        self._forward = AttachedForward(own, self)
        own.forward = self._forward
        _ATTACHED.add(own)

    def begin_step(
        self,
        *,
        num_utterances: int | None = None,
        batches: Iterable[Mapping[str, Any]] | None = None,
        divided_by: int = 1,
    ) -> None:
        """Say what the next optimiser step holds, so that its loss does not depend on its cuts.

        Until the next call each micro-batch then adds weight * (sum of its losses) / N, N the whole
        step's utterances, over all its micro-batches and ranks. Where torch.distributed runs,
        gradients are taken to be averaged over its ranks, as DistributedDataParallel and FSDP do.

        Args:
            num_utterances: N, over all ranks. Enough where all objectives count utterances and none
                draws from the vocabulary.
            batches: this rank's micro-batches of the step, in place of num_utterances: whatever the
                objectives count is counted over all ranks, and the step's transcripts are gathered;
                every rank must call this.
            divided_by: what your loop divides the model's loss by before its backward pass, often
                the number of micro-batches; what is added has been divided already, so it is
                multiplied by this.

        Raises:
            ValueError: neither or both are given, or an objective counts something else.
        """
        if (num_utterances is None) == (batches is None):
            raise ValueError("give begin_step either num_utterances or batches")
        is_distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        num_ranks = torch.distributed.get_world_size() if is_distributed else 1
        step_ids: Tensor | None = None
        if batches is not None:
            full = [self.port.completed(batch) for batch in batches]
            counts = {
                name: float(sum(int(objective.count(batch)) for batch in full))
                for name, (objective, _) in self._active()
            }
            counts, step_ids = _over_ranks(counts, transcript_ids(full), num_ranks)
        else:
            assert num_utterances is not None
            counts = self._known(num_utterances)
        self._num_steps += 1
        self._counts = {name: max(1.0, count) for name, count in counts.items()}
        self._step_ids = step_ids
        self._factor = float(num_ranks * divided_by)

    def _known(self, num_utterances: int) -> dict[str, float]:
        """Counts of objectives that count utterances."""
        if num_utterances < 1:
            raise ValueError(f"num_utterances must be at least 1, got {num_utterances}")
        for name, (objective, _) in self._active():
            if not isinstance(objective, OnPair):
                raise ValueError(
                    f"objective {name!r} does not count utterances; pass begin_step(batches=…)"
                )
        return dict.fromkeys(self.objectives, float(num_utterances))

    def detach(self) -> None:
        """Leave the model as it was before `attach`."""
        self.port.detach()
        self._forward.remove()
        _ATTACHED.discard(self.port.model)

    def end_step(self) -> None:
        """Forget what `begin_step` said: each micro-batch then has its own mean again."""
        self._counts, self._step_ids, self._factor = {}, None, 1.0

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
            self._forward = AttachedForward(model, self)
            model.forward = self._forward

    def _active(self) -> list[tuple[str, tuple[Objective, float]]]:
        return [(name, pair) for name, pair in self.objectives.items() if pair[1] > 0]

    def is_active(self) -> bool:
        """Whether a forward pass of the model is now one to add to."""
        return bool(self._active()) and self.port.model.training and torch.is_grad_enabled()

    def run(self, original: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """One training pass: the model's output with the objectives in its loss.

        Raises:
            ValueError: no input_ids, return_dict=False, or a batch that the port refuses.
        """
        if arguments.get("input_ids") is None:
            raise ValueError(
                "attach() needs input_ids, whose placeholders say where speech is; got "
                f"{', '.join(sorted(arguments))}"
            )
        if arguments.get("return_dict") is False:
            raise ValueError(
                "attach() adds to the output's loss by its name; leave return_dict True"
            )
        batch = self.port.completed(arguments)
        options = {k: v for k, v in arguments.items() if not isinstance(v, Tensor)}
        options.pop(self.port.text_key, None)
        given = {k: v for k, v in arguments.items() if k == "labels"}
        held: dict[str, Any] = {}

        self._check_reference()

        def call(**inputs: Any) -> Any:
            inputs = options | given | inputs
            if (
                arguments.get("attention_mask") is None
            ):  # ours alone: without one, packed rows are told apart
                inputs.pop("attention_mask", None)
            held["output"] = original(**inputs)
            return held["output"]

        device = self.port.device(batch["input_ids"])
        tensors = {k: v.to(device) for k, v in batch.items() if isinstance(v, Tensor)}
        tensors.pop(self.port.text_key, None)
        view = run_forwards(
            self.port,
            tensors,
            needs=self.needs,
            layers=self.layers,
            reference=self.reference,
            call=call,
            step_ids=None if self._step_ids is None else self._step_ids.to(device),
            draw_seed=self._draw_seed(),
        )
        output = held["output"]
        self.loss = self._total(view)
        if output.get("loss") is not None and not self._is_collecting:
            output.loss = output.loss + self.loss.to(output.loss)
        elif not self._is_collecting:
            _warn_once("the model returned no loss to add to; add handle.loss to yours")
        if self.layers and not arguments.get("output_hidden_states"):
            output.hidden_states = None
        return output

    def _check_reference(self) -> None:
        """Refuse weights at the start that are not those of what trains now."""
        if self.reference is not None and _trained(self.port.model) != self._trained:
            raise ValueError(
                "what trains has changed since attach(), so the weights at the start are not known; "
                "call attach() after PEFT has wrapped the model, or pass reference="
            )

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

    def _draw_seed(self) -> int:
        """Seeds what objectives draw: the same in a step, where steps are begun."""
        if not self._counts:
            self._num_steps += 1
        return draw_seed(self.seed, self._num_steps)


class _OwnPort(OwnPort):
    """otreg's own model under a handle."""

    text_key = None

    def device(self, ids: Tensor) -> torch.device:
        return ids.device

    def detach(self) -> None:
        """There are no hooks."""


_ATTACHED: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def _trained(model: nn.Module) -> frozenset[str]:
    return frozenset(name for name, p in model.named_parameters() if p.requires_grad)


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning(message)


def _over_ranks(
    counts: Mapping[str, float], ids: Tensor, num_ranks: int
) -> tuple[dict[str, float], Tensor]:
    """Counts summed and ids joined over all ranks."""
    if num_ranks == 1:
        return dict(counts), ids
    found: list[Any] = [None] * num_ranks
    torch.distributed.all_gather_object(found, (dict(counts), ids.tolist()))
    total = {name: sum(rank_counts[name] for rank_counts, _ in found) for name in counts}
    joined = sorted({token for _, tokens in found for token in tokens})
    return total, torch.tensor(joined, dtype=torch.long)
