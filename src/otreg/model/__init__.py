"""The speech language model: encoder, adapter, compression, language model.

Importing this module registers the model with transformers' Auto classes.
"""

from transformers import AutoConfig, AutoModelForMultimodalLM, AutoProcessor

from otreg.model.configuration import SpeechLMConfig
from otreg.model.modeling import SpeechLMForConditionalGeneration
from otreg.model.outputs import EncoderStates, SpeechFeatures, SpeechLMOutput
from otreg.model.processing import SpeechLMProcessor
from otreg.model.towers import TRAINABLE_GROUPS, set_trainable

AutoConfig.register(SpeechLMConfig.model_type, SpeechLMConfig, exist_ok=True)
AutoModelForMultimodalLM.register(SpeechLMConfig, SpeechLMForConditionalGeneration, exist_ok=True)
AutoProcessor.register(SpeechLMConfig, SpeechLMProcessor, exist_ok=True)

__all__ = [
    "TRAINABLE_GROUPS",
    "EncoderStates",
    "SpeechFeatures",
    "SpeechLMConfig",
    "SpeechLMForConditionalGeneration",
    "SpeechLMOutput",
    "SpeechLMProcessor",
    "set_trainable",
]
