"""The parts of a model of others that train: its encoder, its adapter, its language model."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from torch import nn

from otreg.integrations.families import UnsupportedModelError, family_of
from otreg.model import lora
from otreg.model.towers import check_groups

_ENCODERS = ("audio_tower", "encoder")
_ADAPTERS = ("multi_modal_projector", "embed_audio", "projector")


def set_trainable(model: Any, groups: Iterable[str]) -> int:
    """Train the named parts of a model of others and freeze the rest of it, vision included.

    Args:
        model: without wrappers, changed in place.
        groups: of "adapter", "audio_tower", "language_model" (with its output layer) and "lora" (what
            `add_lora` added).

    Returns:
        The number of parameters that now train.

    Raises:
        ValueError: an unknown group, conflicting ones, or LoRA that the model does not have.
        UnsupportedModelError: a part cannot be found in this model.
    """
    groups = list(groups)
    check_groups(groups)
    updates = lora.lora_parameters(language_layers(model))
    if "lora" in groups and not updates:
        raise ValueError("cannot train 'lora': the model has none; call add_lora() first")
    model.requires_grad_(False)
    chosen = []
    for group in set(groups) - {"lora"}:
        chosen += _parameters(model, group)
    for parameter in [*chosen, *(updates if "lora" in groups else [])]:
        parameter.requires_grad_(True)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def add_lora(model: Any, options: dict[str, Any]) -> None:
    """Add LoRA to the language model's layers; it starts as the identity.

    Args:
        model: changed in place.
        options: r, alpha, dropout, target_modules (None = the attention projections).

    Raises:
        ValueError: no module has these names.
    """
    layers = language_layers(model)
    targets = options["target_modules"] or lora.default_targets(layers)
    lora.inject_lora(layers, options | {"target_modules": list(targets)})


def merge_lora(model: Any) -> None:
    """Add the LoRA updates to the weights; without LoRA, do nothing."""
    lora.merge_lora(language_layers(model))


def language_layers(model: Any) -> nn.Module:
    """The layers of the language model, which hold nothing of the audio."""
    decoder = model.get_decoder()
    layers: nn.Module = getattr(decoder, "layers", decoder)
    return layers


def _parameters(model: Any, group: str) -> list[nn.Parameter]:
    """The parameters of one part."""
    base = getattr(model, "model", model)
    family = family_of(model)
    adapter = _found(base, family.adapter or _ADAPTERS, all_of=bool(family.adapter))
    encoder = _found(base, family.encoder or _ENCODERS, all_of=bool(family.encoder))
    if not adapter or not encoder:
        raise UnsupportedModelError(
            f"the {'encoder' if adapter else 'adapter'} of {type(model).__name__} is not known to "
            "otreg, so its parts cannot be trained by name; train it in a loop of your own, with "
            "attach()"
        )
    if group == "adapter":
        return adapter
    own = {id(p) for p in adapter}
    if group == "audio_tower":  # sinusoids do not train, as in transformers
        fixed = {
            id(p) for name, p in base.named_parameters() if "embed_positions" in name.split(".")
        }
        return [p for p in encoder if id(p) not in own | fixed]
    audio = own | {id(p) for p in encoder}
    beside = {id(p) for name in family.beside for p in base.get_submodule(name).parameters()}
    head = model.get_output_embeddings()
    written = [*model.get_decoder().parameters(), *(head.parameters() if head is not None else [])]
    return list({id(p): p for p in written if id(p) not in audio | beside}.values())


def _found(base: nn.Module, names: Collection[str], *, all_of: bool) -> list[nn.Parameter]:
    """The parameters of all named modules, or of the first that is there."""
    modules = dict(base.named_modules())
    here = [modules[name] for name in names if name in modules]
    if all_of and len(here) < len(names):
        return []
    return [p for module in (here if all_of else here[:1]) for p in module.parameters()]
