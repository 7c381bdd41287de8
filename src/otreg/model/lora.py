"""LoRA on the language model, through peft, in place: module names stay those of Hugging Face."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

# Attention projections by family; those that a language model has are used.
_ATTENTION_PROJECTIONS = (
    ("q_proj", "k_proj", "v_proj", "o_proj"),  # Llama, Qwen, Mistral, Gemma
    ("q_proj", "k_proj", "v_proj", "out_proj"),  # OPT, GPT-Neo
    ("q_proj", "k_proj", "v_proj", "dense"),  # Phi
    ("qkv_proj", "o_proj"),  # Phi-3
    ("c_attn", "attn.c_proj"),  # GPT-2
    ("query_key_value", "dense"),  # GPT-NeoX, Falcon, BLOOM
)


def default_targets(language_model: nn.Module) -> list[str]:
    """Find the attention projections of a language model by their usual names.

    Args:
        language_model: any causal language model.

    Returns:
        Names for peft's ``target_modules``.

    Raises:
        ValueError: none of the usual names occurs.
    """
    names = [name for name, _ in language_model.named_modules()]
    for targets in _ATTENTION_PROJECTIONS:
        if all(any(name.endswith("." + target) for name in names) for target in targets):
            return list(targets)
    raise ValueError(
        f"found no attention projections with a usual name in {type(language_model).__name__}; "
        "pass target_modules=[…] with the names of its linear layers"
    )


def inject_lora(language_model: nn.Module, options: dict[str, Any]) -> None:
    """Add LoRA modules, which start as the identity, to the layers named in ``options``.

    Args:
        language_model: changed in place.
        options: r (rank, >= 1), alpha, dropout in [0, 1), target_modules.

    Raises:
        ValueError: r < 1, or no module matches ``target_modules``.
    """
    if options["r"] < 1:
        raise ValueError(f"the rank r of LoRA must be >= 1; got {options['r']}")
    config = LoraConfig(
        r=options["r"],
        lora_alpha=options["alpha"],
        lora_dropout=options["dropout"],
        target_modules=list(options["target_modules"]),
        fan_in_fan_out=_has_transposed_weights(language_model, options["target_modules"]),
    )
    inject_adapter_in_model(config, language_model)
    if not any(isinstance(module, LoraLayer) for module in language_model.modules()):
        raise ValueError(
            f"no module of {type(language_model).__name__} is named {options['target_modules']}"
        )


def lora_parameters(language_model: nn.Module) -> list[nn.Parameter]:
    """List the parameters that LoRA added."""
    return [p for name, p in language_model.named_parameters() if "lora_" in name]


def merge_lora(language_model: nn.Module) -> int:
    """Add every LoRA update to the weight that it modifies and take the LoRA modules out.

    Args:
        language_model: changed in place.

    Returns:
        How many layers were merged.

    Raises:
        ValueError: an update is not finite.
    """
    layers = [(n, m) for n, m in language_model.named_modules() if isinstance(m, LoraLayer)]
    for name, layer in layers:
        layer.merge(safe_merge=True)  # type: ignore[operator]
        parent, _, child = name.rpartition(".")
        setattr(language_model.get_submodule(parent), child, layer.get_base_layer())
    if hasattr(language_model, "peft_config"):
        del language_model.peft_config
    return len(layers)


def _has_transposed_weights(language_model: nn.Module, targets: list[str]) -> bool:
    return any(
        type(module).__name__ == "Conv1D" and any(name.endswith(target) for target in targets)
        for name, module in language_model.named_modules()
    )
