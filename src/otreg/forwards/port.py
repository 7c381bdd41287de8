"""How a step reads a model: the one thing that a family of models must answer to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from torch import nn

from otreg.forwards.token_rows import vocabulary_of
from otreg.forwards.twin import Twin
from otreg.model.merging import labels_at
from otreg.model.outputs import SpeechFeatures, SpeechLMOutput
from otreg.objectives.base import Vocabulary

NOT_OF_THE_MODEL = ("labels", "text_ids", "text_mask")
_AUDIO = ("input_features", "input_features_mask", "encoder_hidden_states", "encoder_mask")

Call = Callable[..., Any]


@runtime_checkable
class Port(Protocol):
    """A model as the passes of a step see it.

    Attributes:
        model: the module itself; its mode is switched for the passes without gradient.
        pad_token_id: fills the twin's rows.
    """

    model: nn.Module
    pad_token_id: int

    def completed(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch with what objectives count: clips, text_ids and text_mask (`otreg.data.collate`)."""
        ...

    def features(self, batch: Mapping[str, Any]) -> SpeechFeatures:
        """The rows of speech of a complete batch alone; no more than speech_embeds, speech_mask and
        what merging made of frames (placeholder_keep, num_placeholders) need be in it.
        """
        ...

    def speech(self, batch: Mapping[str, Any], call: Call, *, states: bool) -> SpeechLMOutput:
        """Run the batch through `call` and say what entered the language model.

        Args:
            batch: with input_ids, attention_mask, clips and the audio's own tensors.
            call: takes the model's arguments by name; the model itself, or what wraps it.
            states: whether the output holds hidden states.

        Returns:
            As `SpeechLMForConditionalGeneration` gives it, the labels where the positions now stand.
        """
        ...

    def text(self, twin: Twin, *, states: bool) -> SpeechLMOutput:
        """Run a text twin."""
        ...

    def vocabulary(self) -> Vocabulary:
        """The language model's token embeddings."""
        ...


class OwnPort:
    """`SpeechLMForConditionalGeneration`, which answers by itself.

    Args:
        model: the model.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.pad_token_id = int(model.config.pad_token_id)

    def completed(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """See `Port`; our collator's batches are complete."""
        return dict(batch)

    def features(self, batch: Mapping[str, Any]) -> SpeechFeatures:
        """See `Port`; the language model does not run."""
        audio = {name: batch[name] for name in _AUDIO if name in batch}
        features: SpeechFeatures = self.model.get_audio_features(**audio)
        return features

    def speech(self, batch: Mapping[str, Any], call: Call, *, states: bool) -> SpeechLMOutput:
        """See `Port`."""
        inputs = {name: value for name, value in batch.items() if name not in NOT_OF_THE_MODEL}
        output: SpeechLMOutput = call(**inputs, **_asking(states))
        labels = batch.get("labels")
        source = output.source_index
        output.labels = None if labels is None or source is None else labels_at(labels, source)
        return output

    def text(self, twin: Twin, *, states: bool) -> SpeechLMOutput:
        """See `Port`."""
        output: SpeechLMOutput = self.model(
            input_ids=twin.input_ids, attention_mask=twin.attention_mask, **_asking(states)
        )
        output.labels = twin.labels
        return output

    def vocabulary(self) -> Vocabulary:
        """See `Port`."""
        return vocabulary_of(self.model.get_input_embeddings(), self.pad_token_id)


def port_of(model: Any, processor: Any = None) -> Port:
    """How a model is read.

    Args:
        model: a `SpeechLMForConditionalGeneration`, a model of others, or a `Port`.
        processor: the processor that goes with it; that of a model of others brings its port.
    """
    if isinstance(model, Port):
        return model
    port: Port | None = getattr(processor, "port", None)
    return OwnPort(model) if port is None else port


def _asking(states: bool) -> dict[str, bool]:
    return {"output_hidden_states": True} if states else {}
