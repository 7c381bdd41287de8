"""The cross-entropy of a plan's rows against the vocabulary, as one autograd function."""

# ruff: noqa: F722
from typing import Any

import torch
from torch import Tensor

from otreg._shapes import Bool, Float, Int
from otreg.alignment.vocabulary import EXCLUDED, Vocabulary
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

        dL/df_i = (sum_v D_iv e_v / |e_v| - (sum_v D_iv cos_iv) f_i / |f_i|) / (|f_i| temperature)

    one matrix product, and one matrix of frames by classes kept for it.

    Args:
        speech: (batch, frames, dim), finite everywhere.
        frame_mask: (batch, frames) boolean, True = real; one real frame at least in each row.
        plan: (batch, frames, targets), zero at padding; may carry a gradient.
        target_class: (batch, targets) class of each target; any class at padding.
        vocabulary: the classes.
        temperature: of the softmax, > 0.

    Returns:
        (batch,) in float32; float64 where speech is.
    """
    row_mass = plan.sum(2, keepdim=True)
    rows = plan / torch.where(row_mass > 0, row_mass, 1.0)
    weight = frame_mask.to(rows.dtype) / frame_mask.sum(1, keepdim=True)
    excluded = vocabulary.excluded if bool(vocabulary.excluded.any()) else None
    with torch.autocast(device_type=speech.device.type, enabled=False):
        loss: Tensor = _SoftCrossEntropy.apply(
            speech, rows, vocabulary.rows, target_class, weight, excluded, temperature
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
        weight: Tensor,
        excluded: Tensor | None,
        temperature: float,
    ) -> Tensor:
        batch, frames, dim = speech.shape
        inv_speech, inv_table = inverse_norm(speech, rows.dtype), inverse_norm(table, rows.dtype)
        scores = speech.reshape(-1, dim).to(rows.dtype) @ table.to(rows.dtype).T
        scores.mul_((inv_speech / temperature).view(-1, 1)).mul_(inv_table)
        if excluded is not None:
            scores.masked_fill_(excluded, EXCLUDED)
        scores = scores.view(batch, frames, -1)
        index = target_class.unsqueeze(1).expand(-1, frames, -1)
        at_targets = scores.gather(2, index)
        highest = scores.amax(2, keepdim=True)
        share = (scores - highest).exp_()
        total = share.sum(2, keepdim=True)
        expected = (rows * at_targets).sum(2)
        loss = (weight * ((highest + total.log()).squeeze(2) - expected)).sum(1)
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            share.div_(total)
            # sum_v D cos / temperature; what is excluded has a share of 0 and scores of no matter
            own = torch.linalg.vecdot(share, scores) - expected
            difference = share.scatter_add_(2, index, -rows)
            ctx.save_for_backward(
                speech, table, weight, inv_speech, inv_table, at_targets, own, difference
            )
            ctx.temperature = temperature
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        speech, table, weight, inv_speech, inv_table, at_targets, own, difference = (
            ctx.saved_tensors
        )
        weight = weight * grad.unsqueeze(1)  # (batch, frames)
        to_speech = to_rows = None
        if ctx.needs_input_grad[0]:
            pull = difference * (weight * inv_speech / ctx.temperature).unsqueeze(2)
            pull = pull.mul_(inv_table).flatten(0, 1) @ table.to(pull.dtype)
            along = -(weight * own * inv_speech.square())
            to_speech = pull.view(speech.shape).addcmul_(along.unsqueeze(2), speech.to(pull.dtype))
            to_speech = to_speech.to(speech.dtype)
        if ctx.needs_input_grad[1]:
            to_rows = -weight.unsqueeze(2) * at_targets
        return to_speech, to_rows, None, None, None, None, None
