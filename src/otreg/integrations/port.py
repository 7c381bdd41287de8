"""One port that reads any Hugging Face speech language model.

Their decoders receive `inputs_embeds` in which the rows of speech stand where `input_ids` holds a
placeholder. Reading these rows is enough: they carry the gradient to whatever made them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from otreg.forwards.port import Call
from otreg.forwards.token_rows import read_rows, vocabulary_of
from otreg.forwards.twin import Twin
from otreg.integrations.families import Family, family_of, merged_rows, unwrapped
from otreg.integrations.transcripts import Transcripts
from otreg.model.outputs import SpeechFeatures, SpeechLMOutput
from otreg.objectives.base import Vocabulary

OURS = ("clips", "text_ids", "text_mask", "num_samples")
"""What a batch may hold for otreg, which the model does not take."""


class ForeignPort:
    """A Hugging Face speech language model as the passes of a step see it (`otreg.forwards.Port`).

    Args:
        model: the model; DistributedDataParallel, torch.compile and PEFT are looked through.
        processor: the model's processor or tokenizer; names special tokens, and makes ids of
            transcripts that are strings.
        text: where transcripts are in a batch; see `Transcripts`.
        audio_token_id: the placeholder, where the configuration does not say it.

    Raises:
        UnsupportedModelError: speech does not take the place of placeholders in this model.
    """

    def __init__(
        self,
        model: Any,
        *,
        processor: Any = None,
        text: str | None = None,
        audio_token_id: int | None = None,
    ) -> None:
        self.model = unwrapped(model)
        self.family: Family = family_of(self.model, audio_token_id)
        self.audio_token_id = self.family.audio_token_id(self.model.config)
        self.transcripts = Transcripts(
            self.model, processor, text, self.audio_token_id, self.family.text_behind
        )
        self.text_key = text
        pad = self.transcripts.pad_token_id
        self.pad_token_id = 0 if pad is None else pad
        self._merged: Tensor | None = None
        self._is_watching = False
        self._hooks = [self._watch()]

    def _watch(self) -> Any:
        """Read the merged rows, while a pass of ours runs; a recomputation in backward is none."""

        @torch.compiler.disable
        def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._is_watching and self._merged is None:
                self._merged = merged_rows(module, args, kwargs)

        @torch.compiler.disable
        def after(module: Any, args: tuple[Any, ...], output: Tensor) -> None:
            if self._is_watching and self._merged is None:
                self._merged = output

        if self.family.merged is not None:
            return self.family.merged(self.model).register_forward_hook(after)
        return self.model.get_decoder().register_forward_pre_hook(before, with_kwargs=True)

    def detach(self) -> None:
        """Take the hooks off the model."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    @contextmanager
    def _watching(self) -> Iterator[None]:
        self._is_watching, self._merged = True, None
        try:
            yield
        finally:
            self._is_watching = False
            self._merged = None

    def completed(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch with clips and transcripts.

        Args:
            batch: as the model takes it, with labels or what `text` names; `clips`, `text_ids` and
                `text_mask` (`otreg.data.collate`) stay where it has them.

        Raises:
            ValueError: clips and transcripts that do not go together.
        """
        full = dict(batch)
        ids = full["input_ids"]
        if full.get("attention_mask") is None:
            full["attention_mask"] = torch.ones_like(ids)
        if "clips" not in full:
            full["clips"] = self._clips(full)
        if not len(full["clips"]):
            for name in OURS:
                full.pop(name, None)
            return full
        if "text_ids" not in full:
            full["text_ids"], full["text_mask"] = self.transcripts.of(full)
        if len(full["text_ids"]) != len(full["clips"]):
            raise ValueError(
                f"expected a transcript for each of the batch's {len(full['clips'])} clips, got "
                f"{len(full['text_ids'])}; a clip is a run of placeholders in input_ids"
            )
        return full

    def device(self, ids: Tensor) -> torch.device:
        """Where a batch belongs: with the token embeddings, unless these are offloaded."""
        place: torch.device = self.model.get_input_embeddings().weight.device
        return ids.device if place.type == "meta" else place

    def _clips(self, batch: Mapping[str, Any]) -> Tensor:
        if self.family.clips is not None:
            return self.family.clips(batch)
        assert self.audio_token_id is not None  # `family_of` saw to it
        return find_clips(batch["input_ids"], self.audio_token_id)

    def features(self, batch: Mapping[str, Any]) -> SpeechFeatures:
        """See `otreg.forwards.Port`; the whole model runs, whatever it makes of the rows."""
        output = self.speech(batch, self.model, states=False)
        if output.speech_embeds is None or output.speech_mask is None:
            raise ValueError("the batch has no clip, so there is no speech to read")
        return SpeechFeatures(
            speech_embeds=output.speech_embeds,
            speech_mask=output.speech_mask,
            num_placeholders=output.speech_mask.sum(1),
        )

    def speech(self, batch: Mapping[str, Any], call: Call, *, states: bool) -> SpeechLMOutput:
        """See `otreg.forwards.Port`.

        Raises:
            ValueError: the rows are not those of input_ids, or no audio took the placeholders' place.
        """
        inputs = {k: value for k, value in batch.items() if k not in (*OURS, "labels")}
        if states:
            inputs["output_hidden_states"] = True
        with self._watching():
            output = call(**inputs)
            merged = self._merged
        if merged is None:
            raise ValueError(
                f"{type(self.model).__name__}'s decoder was not called in its forward pass, so no row "
                "of speech was seen"
            )
        ids, mask = batch["input_ids"], batch["attention_mask"]
        if merged.shape[:2] != ids.shape:
            raise ValueError(
                f"the decoder receives {merged.shape[1]} rows for input_ids of {ids.shape[1]} columns: "
                "there must be one placeholder for each row of speech; let the model's processor "
                "expand them"
            )
        clips = batch.get("clips")
        source = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        source = torch.where(mask.bool(), source, -1)
        speech = speech_mask = None
        if clips is not None and len(clips):
            clips = clips.to(merged.device)
            self._require_speech(merged, clips)
            speech, speech_mask, silent = self._rows(merged, batch, clips)
            source = source.masked_fill(silent.to(source.device), -1)
        return SpeechLMOutput(
            loss=output.get("loss"),
            logits=output.get("logits"),
            labels=batch.get("labels"),
            attention_mask=mask,
            source_index=source,
            hidden_states=output.get("hidden_states"),
            speech_embeds=speech,
            speech_mask=speech_mask,
        )

    def _rows(
        self, merged: Tensor, batch: Mapping[str, Any], clips: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(clips, frames, dim) the rows that are audio, their mask, and which columns are padding."""
        rows, starts, counts = clips.unbind(1)
        true = counts
        if self.family.true_rows is not None:
            true = self.family.true_rows(self.model, batch, clips).minimum(counts)
        frame = torch.arange(int(true.max()), device=merged.device)
        mask = frame < true[:, None]
        column = torch.where(mask, starts[:, None] + frame, starts[:, None])
        speech = merged[rows[:, None], column] * mask.unsqueeze(2)
        place = torch.arange(merged.shape[1], device=merged.device)
        empty = (place >= (starts + true)[:, None]) & (place < (starts + counts)[:, None])
        silent = merged.new_zeros(merged.shape[:2], dtype=torch.int32)
        silent = silent.index_add(0, rows, empty.to(torch.int32)).bool()
        return speech, mask, silent

    @torch.no_grad()
    def _require_speech(self, merged: Tensor, clips: Tensor) -> None:
        """Refuse a batch whose placeholders were left as they were."""
        embedding = self.model.get_input_embeddings()
        if self.audio_token_id is None or self.audio_token_id >= len(embedding.weight):
            return
        row = read_rows(embedding, clips.new_tensor([self.audio_token_id]))[0].to(merged)
        first = merged.detach()[clips[:, 0], clips[:, 1]]
        left = (first == row).all(1).nonzero().flatten().tolist()
        if left:
            raise ValueError(
                f"the placeholders of clips {left} of the batch were not replaced by speech; is the "
                "audio in the batch, as the model's processor makes it?"
            )

    def text(self, twin: Twin, *, states: bool) -> SpeechLMOutput:
        """See `otreg.forwards.Port`."""
        asking = {"output_hidden_states": True} if states else {}
        output = self.model(input_ids=twin.input_ids, attention_mask=twin.attention_mask, **asking)
        return SpeechLMOutput(
            logits=output.logits,
            labels=twin.labels,
            attention_mask=twin.attention_mask,
            hidden_states=output.get("hidden_states"),
        )

    def vocabulary(self) -> Vocabulary:
        """See `otreg.forwards.Port`."""
        return vocabulary_of(self.model.get_input_embeddings(), self.transcripts.pad_token_id)


def find_clips(input_ids: Tensor, audio_token_id: int) -> Tensor:
    """(clips, 3) row, first column and number of each run of placeholders."""
    is_audio = torch.eq(input_ids, audio_token_id)
    edge = is_audio.new_zeros(len(is_audio), 1)
    before = torch.cat([edge, is_audio[:, :-1]], 1)
    after = torch.cat([is_audio[:, 1:], edge], 1)
    rows, starts = (is_audio & ~before).nonzero(as_tuple=True)
    _, ends = (is_audio & ~after).nonzero(as_tuple=True)
    return torch.stack([rows, starts, ends - starts + 1], 1)
