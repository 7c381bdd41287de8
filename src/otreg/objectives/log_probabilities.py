"""Log probabilities of a few classes among very many, without a matrix of frames by classes."""

# ruff: noqa: F722
from typing import Any

import torch
from torch import Tensor

from otreg.objectives.vocabulary import Classes
from otreg.shapes import Bool, Float, Int
from otreg.transport.cost import inverse_norm

_CHUNK_ELEMENTS = 2**23  # of the largest matrix that a chunk of classes makes
_MAX_RANGE = 60  # of scores: exp(-60) is far from the smallest float32, also times a small number


def log_probabilities(
    speech: Float[Tensor, "batch frames dim"],
    frame_mask: Bool[Tensor, "batch frames"],
    classes: Int[Tensor, "batch n"],
    among: Classes,
    temperature: float,
    chunk: int | None = None,
) -> Float[Tensor, "batch frames n"]:
    """Log softmax over all classes, at some of each utterance.

    s_iv = cos(f_i, e_v) / temperature, raised where a class stands for several
    log p_ic = s_ic - log sum_v exp(s_iv)

    The sum runs over the classes a chunk at a time, and with it the mean embedding q_i = sum_v
    p_iv e_v / |e_v|. For gradients G_ic at log p_ic that is all that the way back needs:

        dL/df_i = (r_i - (r_i . f_i) f_i / |f_i|^2) / (|f_i| temperature)
        r_i = sum_c G_ic e_c / |e_c| - (sum_c G_ic) q_i

    so the table is read once a step, forward, and no row of it is kept.

    Args:
        speech: (batch, frames, dim); anything at padding.
        frame_mask: (batch, frames) boolean, True = real.
        classes: (batch, n) some of these classes; any at positions that the caller ignores.
        among: all classes.
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
    rows = among.rows(classes)
    with torch.autocast(device_type=speech.device.type, enabled=False):
        values: Tensor = _LogProbabilities.apply(
            speech, frame_mask, rows, among, temperature, chunk
        )
    return values


class _LogProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        speech: Tensor,
        frame_mask: Tensor,
        rows: Tensor,
        classes: Classes,
        temperature: float,
        chunk: int | None,
    ) -> Tensor:
        batch, frames, _ = speech.shape
        real = frame_mask.flatten().nonzero().squeeze(1)  # (k,) the real frames of all utterances
        scaled, scale = _scaled_frames(speech, real, temperature)
        log_sum, total, mean = _sum_over_classes(
            scaled, classes, temperature, chunk, with_mean=ctx.needs_input_grad[0]
        )
        values = torch.bmm(
            _spread(real, scaled, (batch, frames)), _unit_rows(rows, scaled.dtype).transpose(1, 2)
        )
        values.sub_(_spread(real, log_sum, (batch, frames)).unsqueeze(2))
        if mean is not None:
            ctx.save_for_backward(real, rows, scaled, scale, total, mean)
            ctx.temperature, ctx.dtype = temperature, speech.dtype
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        real, rows, scaled, scale, total, mean = ctx.saved_tensors
        shape = (grad.shape[0], grad.shape[1])
        grad = grad * _spread(real, scale, shape).unsqueeze(2)
        pull = _pick(torch.bmm(grad, _unit_rows(rows, scaled.dtype)).flatten(0, 1), real)
        share = _pick(grad.sum(2).flatten(), real) / total  # (k,)
        pull.addcmul_(share.unsqueeze(1), mean, value=-1)
        along = torch.einsum("kd,kd->k", pull, scaled).unsqueeze(1)
        pull.addcmul_(along, scaled, value=-(ctx.temperature**2))
        return _spread(real, pull.to(ctx.dtype), shape), None, None, None, None, None


def _sum_over_classes(
    scaled: Tensor, classes: Classes, temperature: float, chunk: int | None, with_mean: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """log sum_v exp(s_iv), (k,); what the sum is over its offset, (k,); and the sum of the unit rows
    weighted likewise, (k, dim) or None.
    """
    num_frames, dim = scaled.shape
    if chunk is None:
        chunk = max(64, _CHUNK_ELEMENTS // max(num_frames, dim))
    # Subtracted lest exp overflow: the largest score that there can be, or, where the smallest would
    # then vanish, the largest so far.
    largest = 1 / temperature
    is_running = 2 * largest > _MAX_RANGE
    offset = scaled.new_full((num_frames,), -largest if is_running else largest)
    total = torch.zeros_like(offset)
    mean: Tensor | None = None
    for chunk_rows, raised in classes.chunks(chunk):
        rows = _unit_rows(chunk_rows, scaled.dtype)  # (c, dim)
        bias = raised.to(scaled.dtype) - (0.0 if is_running else largest)
        scores = torch.addmm(bias, scaled, rows.T)  # (k, c)
        if is_running:
            before, offset = offset, torch.maximum(offset, scores.amax(1))
            shrink = (before - offset).exp_()
            total.mul_(shrink)
            if mean is not None:
                mean.mul_(shrink.unsqueeze(1))
            scores.sub_(offset.unsqueeze(1))
        share = scores.exp_()
        total.add_(share.sum(1))
        if with_mean:
            mean = share @ rows if mean is None else mean.addmm_(share, rows)
        del chunk_rows, rows, scores, share  # before the next chunk is made
    return offset + total.log(), total, mean


def _scaled_frames(speech: Tensor, real: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The real frames, of length 1 / temperature, (k, dim), and what scaled them, (k,)."""
    dtype = torch.float64 if speech.dtype == torch.float64 else torch.float32
    frames = _pick(speech.flatten(0, 1), real)
    converted = frames.to(dtype)
    scale = inverse_norm(converted, dtype).div_(temperature)
    # What was not converted may still be the caller's own.
    scaled = (
        converted * scale.unsqueeze(1)
        if converted is frames
        else converted.mul_(scale.unsqueeze(1))
    )
    return scaled, scale


def _unit_rows(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows at unit length, whatever their scale, in dtype; zero rows stay zero. A copy."""
    converted = rows.to(dtype)
    inverse = torch.linalg.vector_norm(converted, dim=-1, keepdim=True).clamp_(min=1e-30)
    inverse.reciprocal_()
    return rows * inverse if converted is rows else converted.mul_(inverse)


def _pick(values: Tensor, real: Tensor) -> Tensor:
    """The values of real frames, (k, …) of (batch * frames, …); themselves where all are real."""
    return values if len(real) == len(values) else values.index_select(0, real)


def _spread(real: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """(batch, frames, …) from the values of real frames; 0 at padding."""
    batch, frames = shape
    if len(real) < batch * frames:
        everywhere = values.new_zeros(batch * frames, *values.shape[1:])
        values = everywhere.index_copy_(0, real, values)
    return values.view(batch, frames, *values.shape[1:])
