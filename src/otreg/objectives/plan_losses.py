"""Losses on a transport plan. The cost and the minimum itself come with the plan: `SolvedPlan`."""

# ruff: noqa: F722
import torch
from torch import Tensor

from otreg.objectives.log_probabilities import log_probabilities
from otreg.objectives.targets import Targets
from otreg.objectives.vocabulary import Classes
from otreg.pair import SpeechTextPair
from otreg.shapes import Bool, Float


def vocabulary_loss(
    pair: SpeechTextPair,
    plan: Float[Tensor, "batch frames targets"],
    targets: Targets,
    among: Classes,
    temperature: float,
) -> Float[Tensor, " batch"]:
    """Mean over frames of the cross-entropy of a row of the plan against the vocabulary.

    L = - mean_i sum_j Q_ij log softmax(cos(f_i, e_v) / temperature)_v=class(j),   Q_ij = P_ij / sum_j P_ij

    Args:
        pair: whose speech is pulled.
        plan: (batch, frames, targets), zero at padding; may carry a gradient.
        targets: the plan's columns.
        among: the classes, made from the same pair; with a pad class where there is an anchor.
        temperature: of the softmax, > 0.

    Returns:
        (batch,) in float32; float64 where speech is.
    """
    frame_mask = pair.speech_mask
    assert frame_mask is not None  # SpeechTextPair fills masks in
    classes = among.token_class.gather(1, targets.token_index.clamp(min=0))
    if among.pad_class is not None:
        classes = torch.where(targets.anchor, among.pad_class, classes)
    log_p = log_probabilities(pair.speech, frame_mask, classes, among, temperature)
    rows = plan / plan.sum(2, keepdim=True).clamp(min=1e-30)
    return -(rows * log_p).sum((1, 2)) / frame_mask.sum(1)


def sparsity(
    plan: Float[Tensor, "batch frames targets"],
    frame_mask: Bool[Tensor, "batch frames"],
    target_mask: Bool[Tensor, "batch targets"],
) -> Float[Tensor, " batch"]:
    """Mean over frames of the entropy of the plan's rows, as a share of its maximum log m.

    L_spr = - mean_i sum_j Q_ij log Q_ij / log m,   Q_ij = P_ij / sum_j P_ij;   0 where m = 1.

    Args:
        plan: (batch, frames, targets), zero at padding.
        frame_mask: (batch, frames) boolean, True = real.
        target_mask: (batch, targets) boolean, True = real.

    Returns:
        (batch,) in [0, 1]: 0 = each frame chose one target.

    Source: OTReg (arXiv 2508.08131) names L_spr, whose formula is not published; dividing by log m,
        so that its weight means the same for short and long transcripts, is ours.
    """
    row_mass = plan.sum(2, keepdim=True)
    rows = plan / torch.where(row_mass > 0, row_mass, 1.0)
    tiny = torch.finfo(rows.dtype).tiny
    entropy = -(rows * rows.clamp(min=tiny).log()).sum(2)  # (batch, frames)
    mean = torch.where(frame_mask, entropy, 0.0).sum(1) / frame_mask.sum(1)
    return mean / target_mask.sum(1).clamp(min=2).to(mean.dtype).log()
