"""The targets of transport: the transcript's unique embeddings and the pad anchor."""

# ruff: noqa: F722
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from otreg.shapes import Bool, Float, Int


@dataclass(frozen=True)
class Targets:
    """The unique targets of each utterance, in order of first occurrence.

    Args:
        embeddings: (batch, targets, dim), without gradient; 0 at padding.
        mask: (batch, targets) boolean, True = real.
        token_index: (batch, targets) position in the transcript of each target's first token; -1
            for the pad anchor and at padding.
        anchor: (batch, targets) boolean, True at the pad anchor.
        occurrences: (batch, tokens) the target that each transcript token belongs to; -1 at
            padding.
    """

    embeddings: Tensor
    mask: Tensor
    token_index: Tensor
    anchor: Tensor
    occurrences: Tensor

    def counts(self) -> Tensor:
        """(batch, targets) how many tokens each target stands for; 1 at the anchor, 0 at padding."""
        num_targets = self.mask.shape[1]
        column = torch.where(self.occurrences < 0, num_targets, self.occurrences)
        counts = column.new_zeros(len(column), num_targets + 1)
        counts.scatter_add_(1, column, torch.ones_like(column))
        return torch.where(self.anchor, 1, counts[:, :num_targets])


def unique_targets(
    text: Float[Tensor, "batch tokens dim"],
    mask: Bool[Tensor, "batch tokens"],
    threshold: float | None,
    pad_embedding: Float[Tensor, " dim"] | None = None,
) -> Targets:
    """De-duplicate a transcript's embeddings by cosine, greedily from the left.

    A token opens a new target unless its cosine to an earlier target is at or above the threshold;
    then it belongs to the earliest such target. The pad anchor comes last and is de-duplicated like
    a token: where a token's row is that close to the pad row, the utterance has no anchor of its
    own.

    Args:
        text: (batch, tokens, dim) embeddings; anything at padding.
        mask: (batch, tokens) boolean, True = real.
        threshold: cosine in (-1, 1]; 1 = only equal directions; None = keep all tokens apart.
        pad_embedding: (dim,) the pad token's row, appended as the pad anchor; None = no anchor.

    Returns:
        Targets, padded to the largest number of targets in the batch.

    Source: OTReg (arXiv 2508.08131), unique transcript embeddings with the pad token's row; the
        order of de-duplication is not published.
    """
    batch, tokens, dim = text.shape
    text = text.detach()
    if pad_embedding is not None:
        anchor_row = pad_embedding.detach().to(text.dtype).expand(batch, 1, dim)
        text = torch.cat([text, anchor_row], 1)
        mask = torch.cat([mask, mask.new_ones(batch, 1)], 1)
    length = text.shape[1]
    position = torch.arange(length, device=text.device)

    if threshold is None:
        is_first = mask
        first = position.expand(batch, length)
    else:
        rows = text if text.dtype == torch.float64 else text.float()
        with torch.autocast(device_type=rows.device.type, enabled=False):
            products = torch.bmm(rows, rows.transpose(1, 2))
        inverse = products.diagonal(dim1=1, dim2=2).clamp(min=1e-30).rsqrt()
        inverse = torch.where(mask, inverse, math.nan)  # padding is close to nothing
        cosine = products.mul_(inverse.unsqueeze(2)).mul_(inverse.unsqueeze(1))
        close = cosine >= threshold - 1e-6  # equal rows round below 1
        # A zero row has a cosine of 0 with everything, itself included.
        close.diagonal(dim1=1, dim2=2).fill_(True)
        is_first, first = _greedy(close, mask, position)

    column = (is_first.cumsum(1) - 1).gather(1, first)  # (batch, length)
    column = torch.where(mask, column, -1)
    num_targets = int(column.max()) + 1
    order = torch.argsort(~is_first, dim=1, stable=True)[:, :num_targets]
    target_mask = is_first.gather(1, order)
    row = torch.where(target_mask, order, order[:, :1])  # a real one, for padding is made of it
    row = row + torch.arange(0, batch * length, length, device=text.device).unsqueeze(1)
    embeddings = text.flatten(0, 1).index_select(0, row.flatten()).view(batch, num_targets, dim)
    embeddings.mul_(target_mask.unsqueeze(2))
    is_token = target_mask & (order < tokens)
    anchor = target_mask ^ is_token
    token_index = torch.where(is_token, order, -1)
    occurrences = column[:, :tokens]
    return Targets(embeddings, target_mask, token_index, anchor, occurrences)


def _greedy(
    close: Bool[Tensor, "batch tokens tokens"],
    mask: Bool[Tensor, "batch tokens"],
    position: Int[Tensor, " tokens"],
) -> tuple[Bool[Tensor, "batch tokens"], Int[Tensor, "batch tokens"]]:
    """Which tokens open a target, and the token that opened each token's target."""
    first = close.to(torch.uint8).argmax(2)  # the earliest that is close
    if torch.equal(first.gather(1, first), first):  # and it is close to none before it: all done
        return mask & (first == position), first
    # Tokens close to an earlier target cannot open one. Every round settles the first token that is
    # in doubt, and nearly always all: being close is nearly transitive.
    earlier = close.tril(-1).float()
    is_first = mask
    while True:
        met = torch.bmm(earlier, is_first.float().unsqueeze(2)).squeeze(2) > 0
        settled = mask & ~met
        if torch.equal(settled, is_first):
            break
        is_first = settled
    return is_first, (close & is_first.unsqueeze(1)).to(torch.uint8).argmax(2)


def position_cost(
    frame_mask: Bool[Tensor, "batch frames"],
    text_mask: Bool[Tensor, "batch tokens"],
    targets: Targets,
    width: float,
) -> Float[Tensor, "batch frames targets"]:
    """How far each frame is, in time, from where its target stands in the transcript.

    D_ij = min over the occurrences k of target j of ((i + 1/2)/n - (k + 1/2)/T)^2 / width^2, and 0
    for the pad anchor, which may stand anywhere; n frames, T tokens (all of them, repeated ones
    included).

    Args:
        frame_mask: (batch, frames) boolean, True = real; real frames need not be contiguous.
        text_mask: (batch, tokens) boolean, True = real.
        targets: the unique targets.
        width: deviation that costs 1, as a share of the utterance, > 0.

    Returns:
        (batch, frames, targets) float32; 0 at padding.

    Source: positions as part of the cost follow Le et al. 2023 (arXiv 2301.11716); the minimum over
        occurrences, which keeps repeated tokens apart in time though they share a target, is ours.
    """
    frame_at, token_at = _relative_position(frame_mask), _relative_position(text_mask)
    apart = (frame_at.unsqueeze(2) - token_at.unsqueeze(1)).square_()  # (batch, frames, tokens)
    frames = apart.shape[1]
    num_targets = targets.mask.shape[1]
    column = torch.where(text_mask, targets.occurrences, num_targets)
    column = column.unsqueeze(1).expand(-1, frames, -1)
    farthest = torch.where(targets.token_index >= 0, math.inf, 0.0)  # 0 where no token stands
    farthest = torch.nn.functional.pad(farthest, (0, 1))
    nearest = farthest.unsqueeze(1).repeat(1, frames, 1).scatter_reduce_(2, column, apart, "amin")
    return nearest[:, :, :num_targets].mul_(frame_mask.unsqueeze(2) / width**2)


def _relative_position(mask: Tensor) -> Tensor:
    """Centres of the real positions as shares of the real length, in (0, 1)."""
    rank = mask.cumsum(1).float() - 0.5
    return rank / mask.sum(1, keepdim=True)
