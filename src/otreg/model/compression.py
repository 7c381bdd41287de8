"""OT-based compression and snapping of speech frames, between adapter and language model.

Pure functions on masked batches, in the order in which the model applies them: `merge_pairs`, then
(for what enters the language model) `keep_log_weight` in training or `frames_to_keep` at inference,
and `snap_to_vocabulary`. `compaction_index` and `gather_rows` take removed positions out of a padded
batch.

Source: arXiv 2508.08131 (merge, then drop; thresholds open; soft in training, real at inference).
That the soft weight enters the attention logits as its logarithm is ours: scaling an embedding by m
would be undone by the language model's first norm, while log m multiplies its attention by m.
"""

from __future__ import annotations

import torch
from torch import Tensor

from otreg.transport import unit_vectors

# Hides a key in every dtype: the lowest float16. The lowest float32 is -inf in bfloat16, where a row
# that sees nothing would become NaN.
_HIDDEN = -65504.0


def merge_pairs(speech: Tensor, mask: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Merge the frames of the fixed pairs (0, 1), (2, 3), … that are alike; each becomes its mean.

    Fixed pairs, so that a long repeated sound keeps half of its frames.

    Args:
        speech: (batch, frames, dim).
        mask: (batch, frames) bool, True = real.
        threshold: cosine above which a pair is merged, in [-1, 1].

    Returns:
        speech with the mean in the first place of each merged pair, and keep (batch, frames) bool:
        False at padding and in the second place of each merged pair.
    """
    frames = speech.shape[1]
    first, second = speech[:, 0 : frames - 1 : 2], speech[:, 1::2]
    both = mask[:, 0 : frames - 1 : 2] & mask[:, 1::2]
    with torch.no_grad():
        safe_first = torch.where(both[..., None], first, 0)
        safe_second = torch.where(both[..., None], second, 0)
        merged = both & (
            (unit_vectors(safe_first.float()) * unit_vectors(safe_second.float())).sum(-1)
            > threshold
        )
    mean = torch.where(merged[..., None], (first + second) / 2, first)
    out = speech.clone()
    out[:, 0 : frames - 1 : 2] = mean
    keep = mask.clone()
    keep[:, 1::2] &= ~merged
    return out, keep


def cosine_to_pad(speech: Tensor, pad_embedding: Tensor) -> Tensor:
    """Measure the cosine of every frame to the pad embedding, (batch, frames), in float32."""
    with torch.autocast(speech.device.type, enabled=False):
        return unit_vectors(speech.float()) @ unit_vectors(pad_embedding.detach().float())


def frames_to_keep(speech: Tensor, mask: Tensor, pad_embedding: Tensor, threshold: float) -> Tensor:
    """Mark the real frames that are not "nothing said": cosine to pad at most the threshold.

    Args:
        speech: (batch, frames, dim).
        mask: (batch, frames) bool.
        pad_embedding: (dim,).
        threshold: in [-1, 1].

    Returns:
        (batch, frames) bool.
    """
    return mask & (cosine_to_pad(speech, pad_embedding) <= threshold)


def keep_log_weight(
    speech: Tensor, mask: Tensor, pad_embedding: Tensor, threshold: float, temperature: float
) -> Tensor:
    """Weigh frames softly and differentiably: the logarithm of what is added to attention logits.

    Equation: ``log m``, ``m = sigmoid((threshold - cos(speech, pad)) / temperature)``; m -> the
    hard decision of `frames_to_keep` as temperature -> 0.

    Args:
        speech: (batch, frames, dim).
        mask: (batch, frames) bool.
        pad_embedding: (dim,).
        threshold: in [-1, 1].
        temperature: > 0.

    Returns:
        (batch, frames) float32, at most 0; 0 at padding.
    """
    cosine = cosine_to_pad(torch.where(mask[..., None], speech, 0), pad_embedding)
    log_weight = torch.nn.functional.logsigmoid((threshold - cosine) / temperature)
    return torch.where(mask, log_weight, 0)


def soft_causal_mask(attention_mask: Tensor, log_weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Build the additive attention mask of softly dropped keys.

    Args:
        attention_mask: (batch, tokens), nonzero = real.
        log_weight: (batch, tokens) log m of each key, 0 for text.
        dtype: of the attention logits.

    Returns:
        (batch, 1, tokens, tokens): log m_k where query q may see key k, -65504 elsewhere.
    """
    tokens = attention_mask.shape[1]
    causal = torch.ones(tokens, tokens, dtype=torch.bool, device=attention_mask.device).tril()
    visible = causal & attention_mask.bool()[:, None, None, :]
    weights = log_weight[:, None, None, :].clamp_min(_HIDDEN / 2)
    return torch.where(visible, weights, _HIDDEN).to(dtype)


def snap_to_vocabulary(
    speech: Tensor,
    weight: Tensor,
    share: float,
    temperature: float,
    *,
    scale: Tensor | float = 1.0,
) -> Tensor:
    """Pull frames towards the embeddings that the language model knows.

    Equation: ``(1 - s) f + s softmax(cos(f, E) / temperature) E``.

    Args:
        speech: (…, dim) frames f; give real frames alone to save memory.
        weight: (vocab, dim) E, before its scale.
        share: s in [0, 1]; 0 returns ``speech`` itself.
        temperature: > 0.
        scale: by which E is multiplied where it enters the language model (Gemma).

    Returns:
        (…, dim) in the dtype of ``speech``. Memory: one float32 row of vocab entries a frame.
    """
    if share == 0:
        return speech
    with torch.autocast(speech.device.type, enabled=False):
        cosine = unit_vectors(speech.float()) @ unit_vectors(weight.float()).T
        expected = scale * (torch.softmax(cosine / temperature, dim=-1) @ weight.float())
        return ((1 - share) * speech.float() + share * expected).to(speech.dtype)


def is_left_padded(attention_mask: Tensor) -> bool:
    """Tell whether any row of (batch, tokens) starts with padding."""
    return not bool(attention_mask[:, 0].bool().all())


def compaction_index(keep: Tensor, *, left: bool) -> tuple[Tensor, Tensor]:
    """Plan how to take positions out of a padded batch, keeping order and padding side.

    Args:
        keep: (batch, tokens) bool, False = padding or removed.
        left: pad on the left.

    Returns:
        index (batch, longest) of the columns to gather, and keep after it (batch, longest) bool.
    """
    longest = int(keep.sum(1).max())
    if left:
        index = torch.argsort(keep.to(torch.int8), dim=1, stable=True)
        index = index[:, index.shape[1] - longest :]
    else:
        index = torch.argsort((~keep).to(torch.int8), dim=1, stable=True)[:, :longest]
    return index, keep.gather(1, index)


def gather_rows(values: Tensor, index: Tensor) -> Tensor:
    """Gather columns of (batch, tokens) or (batch, tokens, dim) by an index (batch, longest)."""
    if values.dim() == 3:
        index = index[..., None].expand(-1, -1, values.shape[-1])
    return values.gather(1, index)
