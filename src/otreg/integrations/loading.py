"""A speech language model and its processor by name, whatever Auto class knows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from otreg.integrations.families import UnsupportedModelError


def load(name: str | Path, *, trust_remote_code: bool = False, **loading: Any) -> tuple[Any, Any]:
    """Load a model with its language-model head, and its processor.

    Args:
        name: Hub id or folder.
        trust_remote_code: run code that comes with the checkpoint; only for those whom you trust.
        **loading: as for from_pretrained of the model: dtype, device_map, attn_implementation, …

    Returns:
        Model and processor.

    Raises:
        UnsupportedModelError: no Auto class of a model that reads audio and writes text knows it.
    """
    import transformers

    trust = {"trust_remote_code": trust_remote_code}
    config = transformers.AutoConfig.from_pretrained(name, **trust)
    # Audio Flamingo 3 is in none but the second (transformers 5.23); remote code is often in the last.
    for auto in ("AutoModelForMultimodalLM", "AutoModelForSeq2SeqLM", "AutoModel"):
        known = getattr(transformers, auto)
        is_remote = auto in (getattr(config, "auto_map", None) or {})
        if (type(config) in known._model_mapping and auto != "AutoModel") or is_remote:
            model = known.from_pretrained(name, **trust, **loading)
            return model, transformers.AutoProcessor.from_pretrained(name, **trust)
    raise UnsupportedModelError(
        f"{name} is a {config.model_type!r}, which is no model that reads audio and writes text; load "
        "the model and its processor yourself, and see whether attach() can read it"
    )
