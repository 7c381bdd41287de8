"""Pairs with known answers: a ragged batch, and OTReg's loss as a plain float64 loop."""

import math

import numpy as np
import torch

from oracles import cosine, primal_value, sinkhorn_loop, unique_loop
from otreg import OTReg, SpeechTextPair

VOCAB, DIM = 12, 6
TIGHT = {"tol": 1e-9, "max_iter": 5000}


def make_pair(
    batch: int = 3, frames: int = 11, tokens: int = 7, dtype: torch.dtype = torch.float64
) -> SpeechTextPair:
    """A ragged batch whose transcripts repeat tokens and hold near-equal ones (5 is close to 4)."""
    table = torch.randn(VOCAB, DIM, dtype=dtype)
    table[5] = table[4] + 0.05 * torch.randn(DIM, dtype=dtype)
    ids = torch.randint(1, VOCAB, (batch, tokens))
    ids[0, :4] = torch.tensor([4, 5, 4, 1])
    frame_lengths = torch.randint(2, frames + 1, (batch, 1))
    token_lengths = torch.randint(2, tokens + 1, (batch, 1))
    frame_lengths[0], token_lengths[0] = frames, tokens
    return SpeechTextPair(
        speech=torch.randn(batch, frames, DIM, dtype=dtype).requires_grad_(),
        text=table[ids],
        speech_mask=torch.arange(frames) < frame_lengths,
        text_mask=torch.arange(tokens) < token_lengths,
        token_ids=ids,
        pad_embedding=table[0],
        embedding_table=table,
        step_ids=torch.cat([ids.unique(), torch.tensor([0])]).unique(),  # with the pad row's own id
    )


def loop_loss(pair: SpeechTextPair, k: int, options: OTReg) -> tuple[float, np.ndarray]:
    """The loss of one utterance, written out plainly: the reading of method.md that tests trust."""
    speech = pair.speech[k][pair.speech_mask[k]].detach().numpy()
    text = pair.text[k][pair.text_mask[k]].numpy()
    ids = pair.token_ids[k][pair.text_mask[k]].tolist()
    pad = pair.pad_embedding.numpy()
    rows = np.vstack([text, pad]) if options.pad_anchor else text
    firsts, belongs = unique_loop(rows, options.unique_threshold)
    n, m, length = len(speech), len(firsts), len(text)
    is_anchor = [first == length for first in firsts]

    cost = np.array([[1 - cosine(f, rows[j]) for j in firsts] for f in speech])
    problem = cost.copy()
    for i in range(n):
        for j in range(m):
            places = [t for t in range(length) if belongs[t] == j]
            if options.position_prior and places and not is_anchor[j]:
                apart = min(((i + 0.5) / n - (t + 0.5) / length) ** 2 for t in places)
                problem[i, j] += options.position_prior * apart / options.position_width**2

    counts = np.bincount(belongs[:length], minlength=m) + np.array(is_anchor)
    b = counts if options.target_mass == "count" else np.ones(m)
    b = b / b.sum()
    if options.pad_mass is not None and any(is_anchor):
        j = is_anchor.index(True)
        k_pad = int((cost.argmin(1) == j).sum())
        p = (k_pad + 1) / (n + m) if options.pad_mass == "estimate" else options.pad_mass
        b[j] = 0
        b = b / b.sum() * (1 - p)
        b[j] = p
    a = np.full(n, 1 / n)
    rho = math.inf if options.rho_target is None else options.rho_target
    plan = sinkhorn_loop(problem, a, b, options.epsilon, rho_b=rho, num_iters=50_000)

    q = plan / plan.sum(1, keepdims=True)
    if options.loss == "cost":
        loss = float((plan * cost).sum())
    elif options.loss == "entropic":
        loss = primal_value(plan, problem, a, b, options.epsilon, rho_b=options.rho_target or 0.0)
    else:
        table = pair.embedding_table.numpy()
        take_part = (
            range(VOCAB) if options.vocabulary in ("all", "auto") else pair.step_ids.tolist()
        )
        labels = [v for v in take_part if v > 0 or not options.pad_anchor]  # row 0 is the pad row
        classes = np.vstack([table[labels], pad]) if options.pad_anchor else table[labels]
        loss = 0.0
        for i in range(n):
            scores = np.array([cosine(speech[i], row) for row in classes]) / options.temperature
            log_p = scores - np.log(np.exp(scores - scores.max()).sum()) - scores.max()
            for j, first in enumerate(firsts):
                label = len(classes) - 1 if is_anchor[j] else labels.index(ids[first])
                loss -= q[i, j] * log_p[label] / n
    if options.sparsity_weight:
        entropy = -(q * np.log(np.maximum(q, 1e-300))).sum(1).mean()
        loss += options.sparsity_weight * (entropy / math.log(m) if m > 1 else 0.0)
    return loss, plan


CASES = {
    "reference solver": OTReg(epsilon=0.05, method="reference", **TIGHT),
    "default": OTReg(epsilon=0.05, **TIGHT),
    "paper": OTReg.paper(**TIGHT),
    "paper unrolled": OTReg.paper(plan_gradient="unrolled", **TIGHT),
    "entropic": OTReg(loss="entropic", epsilon=0.05, **TIGHT),
    "entropic relaxed": OTReg(loss="entropic", epsilon=0.1, rho_target=0.3, **TIGHT),
    "relaxed": OTReg.paper(rho_target=0.1, **TIGHT),
    "by count": OTReg.paper(target_mass="count", **TIGHT),
    "pad mass": OTReg.paper(pad_mass=0.4, **TIGHT),
    "pad mass by count": OTReg.paper(pad_mass=0.4, target_mass="count", **TIGHT),
    "pad mass estimated": OTReg.paper(pad_mass="estimate", **TIGHT),
    "vocabulary with pad": OTReg(pad_anchor=True, epsilon=0.05, temperature=0.2, **TIGHT),
    "step's tokens": OTReg(vocabulary="step", epsilon=0.05, **TIGHT),
    "step's tokens with pad": OTReg(
        vocabulary="step", pad_anchor=True, epsilon=0.05, temperature=0.2, **TIGHT
    ),
    "cost with prior": OTReg.paper(position_prior=0.05, position_width=0.15, **TIGHT),
}
