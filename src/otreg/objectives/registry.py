"""Objectives by name, for configurations."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from otreg.names import find_named, nearest
from otreg.objectives.base import Objective, lifted
from otreg.objectives.cross_entropy import CrossEntropy
from otreg.objectives.ctc import CTC
from otreg.objectives.distillation import Distillation
from otreg.objectives.otreg import OTReg

OBJECTIVES: dict[str, Callable[..., Any]] = {
    "cross_entropy": CrossEntropy,
    "otreg": OTReg,
    "otreg_paper": OTReg.paper,
    "ctc": CTC,
    "distillation": Distillation,
}


def build_objective(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    layer: int | None = None,
    dim: int,
    vocab_size: int,
) -> Objective:
    """Make an objective from its name and options, as a configuration gives them.

    Args:
        name: a key of OBJECTIVES; or "package.module:callable", any importable callable that returns
            an objective, on views or on pairs.
        options: keyword arguments of the objective.
        layer: hidden states that an objective on pairs compares; None = the adapter's outputs.
        dim: width of the language model's embeddings; handed to objectives with a head of their
            own.
        vocab_size: number of token ids; handed to objectives with a head of their own.

    Raises:
        ValueError: on an unknown name or option, with the nearest known one, or options out of
            range.

    Example:
        >>> build_objective("otreg", {"epsilon": 0.02}, dim=128, vocab_size=200).objective.epsilon
        0.02
    """
    options = dict(options or {})
    factory = find_named("objective", name, OBJECTIVES)
    # OTReg.paper takes any option of OTReg.
    accepted = inspect.signature(OTReg if name == "otreg_paper" else factory).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values())
    for key in options:
        if key not in accepted and not takes_any:
            raise ValueError(f"objective {name!r} has no option {key!r}; {nearest(key, accepted)}")
    if factory is CTC and options.get("tied", True) is False:
        options = {"dim": dim, "vocab_size": vocab_size} | options
    return lifted(factory(**options), layer)
