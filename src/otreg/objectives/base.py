"""The one contract of every objective: what it sees of a step, what it needs, and what it returns.

The loss of an optimiser step is

    L = sum_o w_o * (sum of totals_o / sum of counts_o)    over micro-batches and ranks

so it does not depend on how a batch is cut. A count comes from the batch alone, before the forward
pass: utterances, clips or labelled tokens, never frames left after merging.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from otreg.objectives.targets import Targets
from otreg.pair import SpeechTextPair, TokenRows

NEEDS = ("text", "reference_speech", "reference_text", "step_ids")
"""What an objective can ask for: passes, and the token ids of the step's transcripts."""


@dataclass(frozen=True)
class AlignmentOutput:
    """The outcome of an objective on a pair.

    Args:
        loss: (entries,) one loss per entry of the pair, carrying the gradient.
        plan: (entries, frames, targets) the transport plan; None for objectives without one.
        terms: the loss's parts and diagnostics by name, each (entries,) and detached: to log, not
            to train on.
        targets: the unique targets that are the plan's columns; None for objectives without a plan.
        converged: (entries,) whether the solver reached its tolerance; None for objectives without
            one.
    """

    loss: Tensor
    plan: Tensor | None = None
    terms: dict[str, Tensor] = field(default_factory=dict)
    targets: Targets | None = None
    converged: Tensor | None = None


@dataclass(frozen=True)
class Term:
    """What an objective says of a micro-batch.

    Args:
        total: () the sum of its losses, carrying the gradient; the trainer divides it by the step's
            count.
        terms: parts and diagnostics by name, (entries,) each and detached; logged as means.
        by_row: called to name the utterances of a total that is not finite: (batch,) the total's
            share of each row.
    """

    total: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    by_row: Callable[[], Tensor] | None = None


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """How a view reads the language model's token embeddings; nothing of it carries a gradient.

    Args:
        embed: (…) ids -> (…, dim) rows as the language model receives them.
        table: (vocab, dim) the embedding weight; its rows may differ from embed's by one factor.
        pad_token_id: the token that stands for "nothing said"; None = the model has none.
    """

    embed: Callable[[Tensor], Tensor]
    table: Tensor | TokenRows
    pad_token_id: int | None


@dataclass(frozen=True, eq=False)
class View:
    """All that an objective sees of a step; own models and foreign ones alike.

    Args:
        batch: as the collator makes it (`otreg.data.collate`).
        speech: the model's output for the batch, with labels, attention_mask, source_index,
            speech_embeds, speech_mask and, on request, hidden_states; carries the gradient.
        text: the output for the twin: the transcript's tokens in place of the speech; None unless
            asked for, like the two below. No gradient, no dropout.
        reference_speech: as `speech`, by the weights at the stage's start.
        reference_text: as `text`, by the weights at the stage's start.
        twin_index: (batch, tokens) for each position of `speech` the one of the same token in the
            twin; -1 = none (speech and padding).
        twin_clips: (clips, 3) row, first position and length of each clip's transcript in the twin.
        vocabulary: the language model's token embeddings; None where they cannot be had.
        step_ids: (k,) sorted distinct ids of the optimiser step's transcripts, where asked for; in
            evaluation, where there is no step, of the whole vocabulary.
        draw_seed: seeds what an objective draws in this step.
    """

    batch: Mapping[str, Tensor]
    speech: Any
    text: Any = None
    reference_speech: Any = None
    reference_text: Any = None
    twin_index: Tensor | None = None
    twin_clips: Tensor | None = None
    vocabulary: Vocabulary | None = None
    step_ids: Tensor | None = None
    draw_seed: int | None = None

    def transcribed(self) -> Tensor:
        """(clips,) which clips have a transcript."""
        return transcribed_clips(self.batch)

    def clip_rows(self) -> Tensor:
        """(clips,) the row of each clip."""
        return self.batch["clips"][:, 0]

    def pair(self, layer: int | None = None) -> SpeechTextPair:
        """The transcribed clips and their transcripts, in one space.

        Args:
            layer: None = the adapter's outputs and the tokens' embeddings; k >= 0 = the hidden
                states at layer k of both passes, where there is no vocabulary and no pad row.

        Returns:
            One entry per transcribed clip, in the batch's order.

        Raises:
            ValueError: no clip has a transcript, or the view lacks the pass or layer.
        """
        chosen = self.transcribed()
        if not bool(chosen.any()):
            raise ValueError("the batch has no clip with a transcript, so there is no pair in it")
        if layer is not None:
            return self._pair_at(layer, chosen)
        if self.vocabulary is None:
            raise ValueError(
                "this model's token embeddings cannot be read; pass a layer to compare hidden states"
            )
        ids, mask = self.batch["text_ids"], self.batch["text_mask"]
        speech, frame_mask = self.speech.speech_embeds, self.speech.speech_mask
        if not bool(chosen.all()):
            ids, mask, speech, frame_mask = (x[chosen] for x in (ids, mask, speech, frame_mask))
        ids = ids.masked_fill(~mask, 0)  # the padding's id may lie outside the table
        words = self.vocabulary
        pad = None
        if words.pad_token_id is not None:
            pad = words.embed(ids.new_tensor([words.pad_token_id]))[0]
        return SpeechTextPair(
            speech=speech,
            text=words.embed(ids),
            speech_mask=frame_mask,
            text_mask=mask,
            token_ids=ids,
            pad_embedding=pad,
            embedding_table=words.table,
            pad_token_id=words.pad_token_id,
            step_ids=self.step_ids,
            draw_seed=self.draw_seed,
        )

    def _pair_at(self, layer: int, chosen: Tensor) -> SpeechTextPair:
        """Hidden states of the clips' frames and of their transcripts' tokens at a layer."""
        for name, output in (("speech", self.speech), ("text", self.text)):
            if output is None or output.hidden_states is None:
                raise ValueError(
                    f"the {name} pass kept no hidden states; an objective at a layer must list "
                    "needs={'text'} and layers={layer}"
                )
        states, twin = self.speech.hidden_states, self.text.hidden_states
        if not 0 <= layer < len(states):
            raise ValueError(
                f"layer must lie in [0, {len(states) - 1}] for this language model (0 = what enters "
                f"it), got {layer}"
            )
        assert self.twin_clips is not None
        rows, starts, lengths = self.batch["clips"][chosen].unbind(1)
        source = self.speech.source_index[rows]  # (clips, tokens)
        inside = (source >= starts[:, None]) & (source < (starts + lengths)[:, None])
        speech, speech_mask = _gathered(states[layer], rows, inside)
        rows, starts, lengths = self.twin_clips[chosen].unbind(1)
        place = torch.arange(twin[layer].shape[1], device=rows.device)
        inside = (place >= starts[:, None]) & (place < (starts + lengths)[:, None])
        text, text_mask = _gathered(twin[layer], rows, inside)
        return SpeechTextPair(speech, text.detach(), speech_mask, text_mask)


def _gathered(states: Tensor, rows: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """(clips, longest, dim) the states of rows at the chosen positions, in order, and their mask."""
    longest = max(1, int(inside.sum(1).max()))
    index = torch.argsort((~inside).to(torch.int8), dim=1, stable=True)[:, :longest]
    mask = inside.gather(1, index)
    return states[rows[:, None], index], mask


def transcribed_clips(batch: Mapping[str, Tensor]) -> Tensor:
    """(clips,) boolean: which clips of a batch have a transcript; empty where there is no clip."""
    if "text_mask" not in batch:
        return torch.zeros(0, dtype=torch.bool)
    return batch["text_mask"].any(1)


@runtime_checkable
class Objective(Protocol):
    """What the trainer calls.

    `needs` (of `NEEDS`) and `layers` (hidden states that it reads) may be left out by an outsider's
    objective: nothing beside the speech pass is then computed.
    """

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        """() its denominator, from the batch alone."""
        ...

    def __call__(self, view: View) -> Term:
        """Its total over the batch, and terms to log."""
        ...


PairObjective = Callable[[SpeechTextPair], AlignmentOutput]


class OnPair(nn.Module):
    """Lift a callable on a pair to an objective; its count is the number of transcribed clips.

    Args:
        objective: called with a `SpeechTextPair`, returns an `AlignmentOutput`.
        layer: compare hidden states at this layer; None = the adapter's outputs and the tokens'
            embeddings.

    Raises:
        ValueError: a negative layer, or an objective that needs a vocabulary at a layer, where there
            is none.

    Example:
        >>> from otreg.objectives import OTReg
        >>> OnPair(OTReg(loss="cost"), layer=1).needs
        frozenset({'text'})
    """

    def __init__(self, objective: PairObjective, layer: int | None = None) -> None:
        super().__init__()
        if layer is not None and layer < 0:
            raise ValueError(
                f"layer must be >= 0 (0 = what enters the language model), got {layer}"
            )
        if layer is not None and getattr(objective, "needs_vocabulary", False):
            raise ValueError(
                f"{type(objective).__name__} needs the vocabulary or the pad row, and there are none "
                f"at layer {layer} of the hidden states; use OTReg(loss='cost') there"
            )
        self.objective = objective
        self.layer = layer
        self.needs = frozenset({"text"} if layer is not None else ())
        if getattr(objective, "needs_step_ids", False):
            self.needs |= {"step_ids"}
        self.layers = frozenset({layer} if layer is not None else ())

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        """() clips with a transcript."""
        return transcribed_clips(batch).sum()

    def forward(self, view: View) -> Term:
        """The callable's losses, summed over the pair's entries."""
        chosen = view.transcribed()
        if not bool(chosen.any()):
            return Term(view.batch["input_ids"].new_zeros((), dtype=torch.float32))
        out = self.objective(view.pair(self.layer))

        def by_row() -> Tensor:
            rows = out.loss.new_zeros(len(view.batch["input_ids"]))
            return rows.index_add(0, view.clip_rows()[chosen], out.loss.detach())

        return Term(out.loss.sum(), dict(out.terms), by_row)


def lifted(objective: Any, layer: int | None = None) -> Objective:
    """An objective on views as it is, or a callable on a pair lifted to one.

    Raises:
        ValueError: a layer for an objective that reads views itself.
    """
    if not hasattr(objective, "count"):
        return OnPair(objective, layer)
    if layer is not None:
        raise ValueError(
            f"{type(objective).__name__} reads the view itself and takes no layer; leave it out"
        )
    return objective
