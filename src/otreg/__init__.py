"""otreg: optimal-transport regularisation of speech-text alignment (OTReg, arXiv 2508.08131)."""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from otreg.integrations import attach
    from otreg.model import SpeechLMConfig, SpeechLMForConditionalGeneration, SpeechLMProcessor
    from otreg.objectives import CTC, AlignmentOutput, OTReg
    from otreg.pair import SpeechTextPair
    from otreg.transport import TransportResult, sinkhorn

# Each public name is imported on first use, so that the losses need torch alone and a command line
# answers before transformers is loaded.
_HOME = {
    "AlignmentOutput": "otreg.objectives",
    "CTC": "otreg.objectives",
    "OTReg": "otreg.objectives",
    "SpeechLMConfig": "otreg.model",
    "SpeechLMForConditionalGeneration": "otreg.model",
    "SpeechLMProcessor": "otreg.model",
    "SpeechTextPair": "otreg.pair",
    "TransportResult": "otreg.transport",
    "attach": "otreg.integrations",
    "sinkhorn": "otreg.transport",
}

__all__ = [
    "CTC",
    "AlignmentOutput",
    "OTReg",
    "SpeechLMConfig",
    "SpeechLMForConditionalGeneration",
    "SpeechLMProcessor",
    "SpeechTextPair",
    "TransportResult",
    "__version__",
    "attach",
    "sinkhorn",
]


def __getattr__(name: str) -> Any:
    """Import a public name from the module where it lives."""
    if name not in _HOME:
        is_room = not name.startswith("_") and importlib.util.find_spec(f"otreg.{name}") is not None
        remedy = f"; it is a module: import otreg.{name}" if is_room else ""
        raise AttributeError(f"module 'otreg' has no attribute {name!r}{remedy}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """The public names, those not imported yet included."""
    return sorted(set(globals()) | set(__all__))
