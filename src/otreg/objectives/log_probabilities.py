"""Log probabilities of a few classes among very many, without a matrix of frames by classes."""

# ruff: noqa: F722
from typing import Any

import torch
from torch import Tensor

from otreg.objectives.vocabulary import Classes
from otreg.shapes import Bool, Float, Int
from otreg.transport.cost import inverse_norm

_CHUNK_ELEMENTS = 2**23  # of the largest matrix that a chunk of classes makes


def log_probabilities(
    speech: Float[Tensor, "batch frames dim"],
    frame_mask: Bool[Tensor, "batch frames"],
    classes: Int[Tensor, "batch n"],
    vocabulary: Classes,
    temperature: float,
    chunk: int | None = None,
) -> Float[Tensor, "batch frames n"]:
    """Log softmax over the vocabulary, at some classes of each utterance.

    s_iv = cos(f_i, e_v) / temperature (+ what stands for rows that were not drawn)
    log p_ic = s_ic - log sum_v exp(s_iv)

    The sum runs over the vocabulary a chunk at a time, and with it the mean embedding q_i = sum_v
    p_iv e_v / |e_v|. For gradients G_ic at log p_ic that is all that the way back needs:

        dL/df_i = (r_i - (r_i . f_i) f_i / |f_i|^2) / (|f_i| temperature)
        r_i = sum_c G_ic e_c / |e_c| - (sum_c G_ic) q_i

    so the table is read once a step, forward, and no row of it is kept.

    Args:
        speech: (batch, frames, dim); anything at padding.
        frame_mask: (batch, frames) boolean, True = real.
        classes: (batch, n) classes of the vocabulary; any at positions that the caller ignores.
        vocabulary: the classes.
        temperature: of the softmax, > 0.
        chunk: classes at a time; None = as many as keep a chunk's matrices at 2^23 elements.

    Returns:
        (batch, frames, n) in float32 (float64 where speech is); 0 at padded frames. Its gradient is
        with respect to speech alone.

    Source: the running sum is that of Milakov and Gimelshein 2018 (arXiv 1805.02867); keeping the
        mean embedding in place of the probabilities is ours.
    """
    if not torch.is_grad_enabled():
        speech = speech.detach()  # then nothing is kept for a way back
    rows = vocabulary.rows(classes)
    with torch.autocast(device_type=speech.device.type, enabled=False):
        values: Tensor = _LogProbabilities.apply(
            speech, frame_mask, rows, vocabulary, temperature, chunk
        )
    return values


class _LogProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        speech: Tensor,
        frame_mask: Tensor,
        rows: Tensor,
        vocabulary: Classes,
        temperature: float,
        chunk: int | None,
    ) -> Tensor:
        batch, frames, _ = speech.shape
        real = frame_mask.flatten().nonzero().squeeze(1)  # (k,) the real frames of all utterances
        unit, _ = _unit_frames(speech, real)
        log_sum, mean = _sum_over_classes(
            unit, vocabulary, temperature, chunk, with_mean=ctx.needs_input_grad[0]
        )
        scores = torch.bmm(
            _spread(real, unit, (batch, frames)), _unit_rows(rows, unit.dtype).transpose(1, 2)
        )
        values = scores.div_(temperature)
        values.sub_(_spread(real, log_sum, (batch, frames)).unsqueeze(2))
        values.masked_fill_(~frame_mask.unsqueeze(2), 0.0)
        if mean is not None:
            ctx.save_for_backward(speech, real, rows, mean)
            ctx.temperature = temperature
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        speech, real, rows, mean = ctx.saved_tensors
        unit, inverse = _unit_frames(speech, real)
        pull = torch.bmm(grad, _unit_rows(rows, unit.dtype)).flatten(0, 1).index_select(0, real)
        total = grad.sum(2).flatten().index_select(0, real)  # (k,)
        pull.addcmul_(total.unsqueeze(1), mean, value=-1)
        along = torch.linalg.vecdot(pull, unit).unsqueeze(1)
        pull.addcmul_(along, unit, value=-1).mul_((inverse / ctx.temperature).unsqueeze(1))
        to_speech = _spread(real, pull.to(speech.dtype), (speech.shape[0], speech.shape[1]))
        return to_speech, None, None, None, None, None


def _sum_over_classes(
    unit: Tensor,
    vocabulary: Classes,
    temperature: float,
    chunk: int | None,
    with_mean: bool,
) -> tuple[Tensor, Tensor | None]:
    """log sum_v exp(s_iv), (k,), and the mean embedding under the softmax, (k, dim) or None."""
    num_frames, dim = unit.shape
    if chunk is None:
        chunk = max(64, _CHUNK_ELEMENTS // max(num_frames, dim))
    # The largest score so far, subtracted lest exp overflow. No cosine is much below -1.
    highest = unit.new_full((num_frames,), -1 / temperature)
    total = torch.zeros_like(highest)
    mean = torch.zeros_like(unit) if with_mean else None
    for rows, raised in vocabulary.chunks(chunk):
        rows = _unit_rows(rows, unit.dtype)  # (c, dim)
        scores = (unit @ rows.T).div_(temperature)  # (k, c)
        if raised is not None:
            scores.add_(raised)
        before, highest = highest, torch.maximum(highest, scores.amax(1))
        shrink = (before - highest).exp_()
        share = scores.sub_(highest.unsqueeze(1)).exp_()
        total = total.mul_(shrink).add_(share.sum(1))
        if mean is not None:
            mean.mul_(shrink.unsqueeze(1)).addmm_(share, rows)
    if mean is not None:
        mean.div_(total.unsqueeze(1))
    return highest + total.log(), mean


def _unit_frames(speech: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """The real frames at unit length, (k, dim), and their inverse norms (k,); copies."""
    dtype = torch.float64 if speech.dtype == torch.float64 else torch.float32
    frames = speech.flatten(0, 1).index_select(0, real).to(dtype)
    inverse = inverse_norm(frames, dtype)
    return frames.mul_(inverse.unsqueeze(1)), inverse


def _unit_rows(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows at unit length, whatever their scale, in dtype; zero rows stay zero. A copy."""
    converted = rows.to(dtype)
    inverse = torch.linalg.vector_norm(converted, dim=-1, keepdim=True).clamp_(min=1e-30)
    inverse.reciprocal_()
    return rows * inverse if converted is rows else converted.mul_(inverse)


def _spread(real: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """(batch, frames, …) from the values of real frames; 0 at padding."""
    batch, frames = shape
    if len(real) < batch * frames:
        everywhere = values.new_zeros(batch * frames, *values.shape[1:])
        values = everywhere.index_copy_(0, real, values)
    return values.view(batch, frames, *values.shape[1:])
