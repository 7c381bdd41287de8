"""Measures beyond error rates and gap, which an experiment asks for by name.

A measure is called as

    measure(model, processor, corpora, *, arm, seed, batch_size, caches, language_model, **options)

with a trained model and its processor, manifests by name, encoder caches by the same names (empty where
there are none), the folder of the language model before training, and the options of the experiment's
YAML. It returns lists of records of results.json, such as {"samples": […], "gap_by_layer": […]}.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from otreg.data.collate import SpeechTextCollator
from otreg.data.dataset import SpeechTextDataset
from otreg.evaluation.measures import DIVERGENCE_MEASURES, GAP_MEASURES
from otreg.forwards import Reference, run_forwards
from otreg.model.evaluation_mode import evaluating
from otreg.names import nearest
from otreg.training.config import DataConfig, InterleaveConfig
from otreg.training.yaml_config import ConfigError

__all__ = ["MEASURES", "MeasureKind", "find_measure"]

Measure = Callable[..., Mapping[str, list[dict[str, Any]]]]


@dataclass(frozen=True)
class MeasureKind:
    """A measure.

    Attributes:
        function: see this module's docstring.
        names: the measures that its records are of, for gates; None = not known beforehand.
    """

    function: Measure
    names: tuple[str, ...] | None


def layers(
    model: Any,
    processor: Any,
    corpora: Mapping[str, Path],
    *,
    arm: str,
    seed: int,
    batch_size: int,
    caches: Mapping[str, Any],
    language_model: Path,
    layers: Sequence[int],
) -> dict[str, list[dict[str, Any]]]:
    """The gap at layers of the language model, with samples of each of its measures.

    Args:
        model, processor, corpora, arm, seed, batch_size, caches, language_model: see this module.
        layers: 0 = what enters the first layer, k = what leaves layer k.

    Returns:
        gap_by_layer and samples, at {"layer": k}.
    """
    from otreg.evaluation.layer_gap import measure_layers
    from otreg.evaluation.samples import sample_record

    found: dict[str, list[dict[str, Any]]] = {"gap_by_layer": [], "samples": []}
    for corpus, manifest in corpora.items():
        dataset = SpeechTextDataset(manifest, processor, encoder_cache=caches.get(corpus))
        ids = [row.id for row in dataset.utterances if row.text]
        views = _views(model, processor, dataset, batch_size, {"text"}, layers)
        of = {"arm": arm, "seed": seed, "corpus": corpus}
        for layer, gap in measure_layers(views, layers).items():
            found["gap_by_layer"].append(of | {"layer": layer} | gap.compute())
            found["samples"] += [
                sample_record(
                    arm=arm,
                    seed=seed,
                    corpus=corpus,
                    measure=name,
                    ids=ids,
                    numerator=above.tolist(),
                    denominator=below.tolist(),
                    at={"layer": layer},
                )
                for name, (above, below) in gap.samples().items()
            ]
    return found


def divergences(
    model: Any,
    processor: Any,
    corpora: Mapping[str, Path],
    *,
    arm: str,
    seed: int,
    batch_size: int,
    caches: Mapping[str, Any],
    language_model: Path,
    interleave: Mapping[str, Any] | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Misalignment, and forgetting against the language model before training.

    Args:
        model, processor, corpora, arm, seed, batch_size, caches, language_model: see this module.
        interleave: as in the `data` of a run; None = rows as the manifest has them.

    Returns:
        samples of "misalignment" and "forgetting".
    """
    from otreg.evaluation.divergences import measure_divergences
    from otreg.evaluation.samples import sample_record

    cut = None if interleave is None else InterleaveConfig(**interleave)
    spans = None if cut is None else DataConfig(interleave=cut).interleaving()  # type: ignore[call-arg]
    reference = reference_of(model, language_model)
    needs = {"text", "reference_text"}
    samples = []
    for corpus, manifest in corpora.items():
        cache = caches.get(corpus) if spans is None else None  # which holds whole clips alone
        dataset = SpeechTextDataset(manifest, processor, encoder_cache=cache, interleaving=spans)
        ids = [row.id for row in dataset.utterances]
        sums: dict[str, tuple[list[float], list[float]]] = {}
        for view in _views(model, processor, dataset, batch_size, needs, (), reference):
            for name, (above, below) in measure_divergences(view).items():
                totals = sums.setdefault(name, ([], []))
                totals[0].extend(above.tolist())
                totals[1].extend(below.tolist())
        samples += [
            sample_record(
                arm=arm,
                seed=seed,
                corpus=corpus,
                measure=name,
                ids=ids,
                numerator=above,
                denominator=below,
            )
            for name, (above, below) in sums.items()
        ]
    return {"samples": samples}


def reference_of(model: Any, language_model: Path) -> Reference:
    """The weights that a model's language model had before training, to look back at.

    Args:
        model: a trained model, its LoRA merged.
        language_model: the folder of the language model that it was built from.
    """
    before = AutoModelForCausalLM.from_pretrained(language_model)
    start = {
        f"language_model.{name}": parameter.detach()
        for name, parameter in before.named_parameters()
    }
    return Reference(model, start)


def _views(
    model: Any,
    processor: Any,
    dataset: SpeechTextDataset,
    batch_size: int,
    needs: Iterable[str],
    layers: Iterable[int],
    reference: Reference | None = None,
) -> Iterator[Any]:
    """The views of a data set's batches, in order, in evaluation mode and without gradient."""
    collator = SpeechTextCollator(processor)
    for first in range(0, len(dataset), batch_size):
        examples = [dataset[i] for i in range(first, min(first + batch_size, len(dataset)))]
        batch = {name: value.to(model.device) for name, value in collator(examples).items()}
        with evaluating(model), torch.no_grad():
            yield run_forwards(model, batch, needs=needs, layers=layers, reference=reference)


MEASURES: dict[str, MeasureKind] = {
    "layers": MeasureKind(layers, tuple(GAP_MEASURES)),
    "divergences": MeasureKind(divergences, tuple(DIVERGENCE_MEASURES)),
}
"""By the name that an experiment gives."""


def find_measure(name: str) -> MeasureKind:
    """The measure of a name, or of `package.module:callable`.

    Raises:
        ConfigError: there is none; the nearest name is offered.
    """
    if name in MEASURES:
        return MEASURES[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ConfigError(
            f"unknown measure {name!r}; {nearest(name, MEASURES)} "
            "(one of your own: package.module:callable)"
        )
    try:
        return MeasureKind(getattr(importlib.import_module(module), attribute), None)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"cannot import the measure {name!r}: {error}") from error
