"""Answers from elsewhere: closed forms, plain float64 loops, problems that carry their solution."""

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from otreg import SpeechTextPair


def sinkhorn_loop(
    cost: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    epsilon: float,
    rho_a: float = math.inf,
    rho_b: float = math.inf,
    num_iters: int = 20_000,
) -> np.ndarray:
    """The plan of one problem by textbook Sinkhorn scaling, in float64, without any stabilisation."""
    kernel = np.outer(a, b) * np.exp(-cost / epsilon)
    power_a = 1.0 if math.isinf(rho_a) else rho_a / (rho_a + epsilon)
    power_b = 1.0 if math.isinf(rho_b) else rho_b / (rho_b + epsilon)
    u, v = np.ones_like(a), np.ones_like(b)
    for _ in range(num_iters):
        v = (b / (kernel.T @ u)) ** power_b
        u = (a / (kernel @ v)) ** power_a
    return u[:, None] * kernel * v[None, :]


def plan_2x2(cost: np.ndarray, a: float, b: float, epsilon: float) -> np.ndarray:
    """The plan of a 2 x 2 problem with masses (a, 1 - a), (b, 1 - b): the root of its cross ratio.

    x (1 - a - b + x) / ((a - x)(b - x)) = exp(-(C11 + C22 - C12 - C21) / epsilon),  x = P11.
    """
    ratio = math.exp(-(cost[0, 0] + cost[1, 1] - cost[0, 1] - cost[1, 0]) / epsilon)
    roots = np.roots([1 - ratio, 1 - a - b + ratio * (a + b), -ratio * a * b])
    (x,) = [r.real for r in roots if max(0.0, a + b - 1) <= r.real <= min(a, b)]
    return np.array([[x, a - x], [b - x, 1 - a - b + x]])


def mass_1x1(cost: float, a: float, b: float, epsilon: float, rho_a: float, rho_b: float) -> float:
    """The mass that a relaxed 1 x 1 problem moves: its stationary point, solved by hand."""
    total = (epsilon * math.log(a * b) + rho_a * math.log(a) + rho_b * math.log(b) - cost) / (
        epsilon + rho_a + rho_b
    )
    return math.exp(total)


def primal_value(
    plan: np.ndarray,
    cost: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    epsilon: float,
    rho_a: float = 0.0,
    rho_b: float = 0.0,
) -> float:
    """<P, C> + epsilon KL(P | a b') + rho_a KL(P 1 | a) + rho_b KL(P' 1 | b), term by term."""

    def kl(p: np.ndarray, q: np.ndarray) -> float:
        p, q = p.ravel(), q.ravel()
        return float(
            sum(x * math.log(x / y) - x + y if x > 0 else y for x, y in zip(p, q, strict=True))
        )

    value = float((plan * cost).sum()) + epsilon * kl(plan, np.outer(a, b))
    return value + rho_a * kl(plan.sum(1), a) + rho_b * kl(plan.sum(0), b)


def permutation_problem(num_problems: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Costs whose only optimal plan is a known permutation: 0 on it, at least 1 elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    cost = 1 + torch.rand(num_problems, size, size, generator=generator)
    plan = torch.zeros(num_problems, size, size)
    for k in range(num_problems):
        order = torch.randperm(size, generator=generator)
        cost[k, torch.arange(size), order] = 0.0
        plan[k, torch.arange(size), order] = 1 / size
    return cost, plan


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    """The cosine of two vectors."""
    return float(x @ y / (math.sqrt(x @ x) * math.sqrt(y @ y)))


def unique_loop(rows: np.ndarray, threshold: float) -> tuple[list[int], list[int]]:
    """Greedy de-duplication from the left: first occurrences, and the target of each row."""
    firsts: list[int] = []
    belongs: list[int] = []
    for j, row in enumerate(rows):
        near = [k for k, first in enumerate(firsts) if cosine(rows[first], row) >= threshold]
        if not near:
            firsts.append(j)
            near = [len(firsts) - 1]
        belongs.append(near[0])
    return firsts, belongs


def alone(pair: SpeechTextPair, k: int) -> SpeechTextPair:
    """Utterance k of a pair in a batch of its own, without padding."""
    return dataclasses.replace(
        pair,
        speech=pair.speech[k : k + 1, pair.speech_mask[k]],
        text=pair.text[k : k + 1, pair.text_mask[k]],
        token_ids=pair.token_ids[k : k + 1, pair.text_mask[k]],
        speech_mask=None,
        text_mask=None,
    )
