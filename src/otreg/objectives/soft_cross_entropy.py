"""The cross-entropy of a plan's rows against the vocabulary, as one autograd function."""

# ruff: noqa: F722
from typing import Any

import torch
from torch import Tensor

from otreg.objectives.vocabulary import EXCLUDED, Vocabulary
from otreg.shapes import Bool, Float, Int
from otreg.transport.cost import inverse_norm


def soft_cross_entropy(
    speech: Float[Tensor, "batch frames dim"],
    frame_mask: Bool[Tensor, "batch frames"],
    plan: Float[Tensor, "batch frames targets"],
    target_class: Int[Tensor, "batch targets"],
    vocabulary: Vocabulary,
    temperature: float,
) -> Float[Tensor, " batch"]:
    """Mean over real frames of - sum_j Q_ij log softmax(cos(f_i, e_v) / temperature)_v=class(j).

    Q is the plan with rows of sum 1. With D = softmax - Q (Q summed by class), the way back is

        dL/df_i = p_i - (p_i . f_i) f_i / |f_i|^2,   p_i = sum_v D_iv e_v / (|e_v| |f_i| temperature)

    one matrix product, and one matrix of frames by classes in all.

    Args:
        speech: (batch, frames, dim); anything at padding, which costs nothing either.
        frame_mask: (batch, frames) boolean, True = real; one real frame at least in each row.
        plan: (batch, frames, targets), zero at padding; may carry a gradient.
        target_class: (batch, targets) class of each target; any class at padding.
        vocabulary: the classes.
        temperature: of the softmax, > 0.

    Returns:
        (batch,) in float32; float64 where speech is.
    """
    rows = plan / plan.sum(2, keepdim=True).clamp(min=1e-30)
    with torch.autocast(device_type=speech.device.type, enabled=False):
        loss: Tensor = _SoftCrossEntropy.apply(
            speech,
            rows,
            vocabulary.rows,
            target_class,
            frame_mask,
            vocabulary.excluded,
            temperature,
        )
    return loss


class _SoftCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        speech: Tensor,
        rows: Tensor,
        table: Tensor,
        target_class: Tensor,
        frame_mask: Tensor,
        excluded: Tensor | None,
        temperature: float,
    ) -> Tensor:
        batch, frames, _ = speech.shape
        real = frame_mask.flatten().nonzero().squeeze(1)  # (k,) the real frames of all utterances
        utterance = real.div(frames, rounding_mode="floor")
        x = speech.flatten(0, 1).index_select(0, real).to(rows.dtype)
        q = rows.flatten(0, 1).index_select(0, real)
        index = target_class.index_select(0, utterance)
        scale = inverse_norm(x, rows.dtype) / temperature
        inv_table = inverse_norm(table, rows.dtype)
        unit = x * scale.unsqueeze(1)
        scores = (unit @ table.to(rows.dtype).T).mul_(inv_table)  # (k, classes)
        if excluded is not None:
            scores.masked_fill_(excluded, EXCLUDED)
        at_targets = scores.gather(1, index)
        expected = (q * at_targets).sum(1)
        highest = scores.amax(1, keepdim=True)
        share = scores.sub_(highest).exp_()
        total = share.sum(1, keepdim=True)
        loss = _spread(real, (highest + total.log()).squeeze(1) - expected, (batch, frames))
        count = frame_mask.sum(1)
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            difference = share.scatter_add_(1, index, -(q * total)).mul_(inv_table)
            scale = scale / total.squeeze(1)  # of the differences, which are not divided by it
            ctx.save_for_backward(
                unit, table, real, utterance, count, scale, at_targets, difference
            )
            ctx.temperature, ctx.shape, ctx.dtype = temperature, (batch, frames), speech.dtype
        return loss.sum(1) / count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        unit, table, real, utterance, count, scale, at_targets, difference = ctx.saved_tensors
        weight = (grad / count).index_select(0, utterance)  # (k,)
        to_speech = to_rows = None
        if ctx.needs_input_grad[0]:
            pull = difference @ table.to(difference.dtype)
            pull.mul_((weight * scale).unsqueeze(1))
            along = (pull * unit).sum(1, keepdim=True) * ctx.temperature**2
            pull.addcmul_(along, unit, value=-1)
            to_speech = _spread(real, pull.to(ctx.dtype), ctx.shape)
        if ctx.needs_input_grad[1]:
            to_rows = _spread(real, -weight.unsqueeze(1) * at_targets, ctx.shape)
        return to_speech, to_rows, None, None, None, None, None


def _spread(real: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """(batch, frames, …) from the values of real frames; 0 at padding."""
    batch, frames = shape
    everywhere = values.new_zeros(batch * frames, *values.shape[1:])
    return everywhere.index_copy_(0, real, values).view(batch, frames, *values.shape[1:])
