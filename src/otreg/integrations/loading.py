"""Speech language models and their processors by name, whatever family they are of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from otreg.integrations.families import UnsupportedModelError
from otreg.integrations.port import ForeignPort
from otreg.integrations.processor import REQUEST_FILE, ForeignProcessor
from otreg.model.loading import load_model, place_of

OWN_TYPE = "otreg_speech_lm"


def load(name: str | Path, *, trust_remote_code: bool = False, **loading: Any) -> tuple[Any, Any]:
    """Load a model of others with its language-model head, and its own processor.

    Args:
        name: Hub id or folder.
        trust_remote_code: run code that comes with the checkpoint; only for those whom you trust.
        **loading: as for from_pretrained of the model: dtype, device_map, attn_implementation, …

    Returns:
        Model and processor.

    Raises:
        UnsupportedModelError: no Auto class of a model that reads audio and writes text knows it.
        ValueError: weights of the model are not in the checkpoint.
    """
    import transformers

    trust = {"trust_remote_code": trust_remote_code}
    config = transformers.AutoConfig.from_pretrained(name, **trust)
    # Audio Flamingo 3 is in none but the second (transformers 5.23); remote code is often in the last.
    for auto in ("AutoModelForMultimodalLM", "AutoModelForSeq2SeqLM", "AutoModel"):
        known = getattr(transformers, auto)
        is_remote = auto in (getattr(config, "auto_map", None) or {})
        if (type(config) in known._model_mapping and auto != "AutoModel") or is_remote:
            model, report = known.from_pretrained(
                name, **trust, **loading, output_loading_info=True
            )
            missing = sorted(report["missing_keys"])
            if missing:
                raise ValueError(
                    f"{name} lacks {len(missing)} of the model's weights, the first {missing[0]}; is it a "
                    "checkpoint of an adapter alone, or of LoRA that was not merged?"
                )
            return model, transformers.AutoProcessor.from_pretrained(name, **trust)
    raise UnsupportedModelError(
        f"{name} is a {config.model_type!r}, which is no model that reads audio and writes text; load "
        "the model and its processor yourself, and see whether attach() can read it"
    )


def load_speech_lm(
    name: str | Path,
    *,
    dtype: str | None = None,
    trust_remote_code: bool = False,
    request: str | None = None,
    request_options: dict[str, Any] | None = None,
) -> tuple[Any, Any]:
    """Load any model that otreg trains, evaluates and transcribes with: ours or that of others.

    Args:
        name: a run folder, a folder of `save_pretrained`, or a Hub id.
        dtype: of the weights, such as "bfloat16"; None = as they were saved.
        trust_remote_code: see `load`.
        request: what the user asks a model of others beside the audio; None = what it was trained
            with by otreg, else the family's own request.
        request_options: further arguments of that request, such as {"language": "English"}.

    Returns:
        The model in evaluation mode, and its `SpeechLMProcessor` or `ForeignProcessor`.

    Raises:
        ValueError: there is no such model, or a request is given for one of ours.
        UnsupportedModelError: otreg cannot read the model.
    """
    place = place_of(name)
    asked = request is not None or bool(request_options)
    try:
        kind = _model_type(place)
    except OSError as error:
        raise ValueError(
            f"there is no folder {str(name)!r}, and no model of that name could be had from the Hub: "
            f"{error}"
        ) from error
    if kind == OWN_TYPE:
        if asked:
            raise ValueError(
                f"{name} is otreg's own model, whose prompt was fixed when it was made; leave "
                "model.instruction and model.request_options out"
            )
        return load_model(str(place), dtype=dtype)
    try:
        model, processor = load(place, trust_remote_code=trust_remote_code, dtype=dtype or "auto")
    except UnsupportedModelError:
        raise
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot load the model in {str(place)!r}: {error}") from error
    saved = _saved_request(place)
    request = saved.get("request") if request is None else request
    request_options = request_options or saved.get("options")
    port = ForeignPort(model, processor=processor)
    return model.eval(), ForeignProcessor(port, processor, request, **(request_options or {}))


def _saved_request(place: str | Path) -> dict[str, Any]:
    """What the model was trained with by otreg, fetched where it is on the Hub; empty without."""
    from transformers.utils import cached_file

    file = cached_file(place, REQUEST_FILE, _raise_exceptions_for_missing_entries=False)
    if file is None:
        return {}
    saved = json.loads(Path(file).read_text(encoding="utf-8"))
    if not isinstance(saved, dict) or not isinstance(saved.get("options", {}), dict):
        raise ValueError(
            f"{place}: {REQUEST_FILE} must hold a request and options, received {saved!r}; write it as "
            '{"request": null, "options": {}}'
        )
    return saved


def _model_type(place: str | Path) -> str | None:
    """What config.json says; a Hub id's is fetched."""
    from transformers import PretrainedConfig

    found, _ = PretrainedConfig.get_config_dict(place)
    kind: str | None = found.get("model_type")
    return kind
