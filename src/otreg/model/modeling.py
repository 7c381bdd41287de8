"""SpeechLMForConditionalGeneration: speech encoder -> adapter -> causal language model."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel

from otreg.model import lora
from otreg.model.adapters import build_adapter
from otreg.model.base import SpeechLMPreTrainedModel
from otreg.model.compression import frames_to_keep, soft_causal_mask
from otreg.model.configuration import SpeechLMConfig
from otreg.model.encoders import build_audio_tower
from otreg.model.merging import MergedPrompt, left_align, merge_speech
from otreg.model.outputs import SpeechFeatures, SpeechLMOutput
from otreg.model.towers import build_from_towers


class SpeechLMForConditionalGeneration(SpeechLMPreTrainedModel, GenerationMixin):
    """A causal language model that reads speech.

    Attributes:
        audio_tower: the Hugging Face speech encoder.
        multi_modal_projector: the adapter, `StackMLPAdapter` or `ConvAdapter`.
        language_model: the Hugging Face causal language model.

    Args:
        config: see `SpeechLMConfig`.
        audio_tower: use this encoder instead of building a random one from the configuration.
        language_model: use this language model instead of building a random one.
    """

    def __init__(
        self,
        config: SpeechLMConfig,
        audio_tower: PreTrainedModel | None = None,
        language_model: PreTrainedModel | None = None,
    ) -> None:
        super().__init__(config)
        self.audio_tower = audio_tower or build_audio_tower(config.audio_config)
        self.language_model = language_model or AutoModelForCausalLM.from_config(config.text_config)
        # One object each: what changes a tower's configuration is then saved with the model.
        config.audio_config = self.audio_tower.config
        config.text_config = self.language_model.config
        self.multi_modal_projector = build_adapter(config, self.embedding_table().shape[1])
        self._takes_position_ids = _takes(self.language_model, "position_ids")
        self.post_init()
        # After post_init, which would start LoRA at random instead of at the identity.
        if config.lora is not None:
            lora.inject_lora(self.language_model, config.lora)

    @classmethod
    def from_towers(
        cls,
        audio_tower: Any,
        language_model: Any,
        *,
        dtype: torch.dtype | str = "auto",
        device_map: Any = None,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> SpeechLMForConditionalGeneration:
        """Join pretrained towers by a new adapter; freezes nothing (see `set_trainable`).

        Args:
            audio_tower: Hub id or folder of a speech encoder (of Whisper, the encoder is taken), or
                a module.
            language_model: Hub id or folder of a causal language model, or a module.
            dtype: of the towers, as for from_pretrained; the adapter takes the language model's.
            device_map: of the towers, as for from_pretrained.
            trust_remote_code: run code that comes with a checkpoint.
            options: fields of `SpeechLMConfig`, such as adapter_type. short_mel defaults to what a
                Whisper encoder's configuration says of its training, where it says so.

        Returns:
            The model. Its adapter starts at the median norm of the token embeddings unless
            adapter_output_norm is given.

        Raises:
            ValueError: a checkpoint lacks weights, a token id is missing, or an unknown option.
        """
        loading = {
            "dtype": dtype,
            "device_map": device_map,
            "trust_remote_code": trust_remote_code,
        }
        return build_from_towers(cls, audio_tower, language_model, loading, options)

    def forward(
        self,
        input_ids: Tensor | None = None,
        input_features: Tensor | None = None,
        input_features_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        clips: Tensor | None = None,
        text_ids: Tensor | None = None,
        text_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> SpeechLMOutput:
        """Run the model on one batch of the collator.

        Args:
            input_ids: (batch, tokens) with audio_token_id once per speech frame.
            input_features: (clips, frames, mels) or (clips, samples), the clips of all rows in the
                order of their placeholders.
            input_features_mask: bool, True = real.
            encoder_hidden_states: (clips, encoder frames, encoder_dim) instead of input_features.
            encoder_mask: (clips, encoder frames) bool.
            attention_mask: (batch, tokens), 0 = padding on either side.
            labels: (batch, tokens), -100 = not supervised.
            clips: (clips, 3) row, first column and number of placeholders of each clip; None = one
                clip a row.
            text_ids: not used here; carried in the batch for the objectives.
            text_mask: not used here; carried in the batch for the objectives.
            position_ids: (batch, tokens); default: counted over real positions.
            past_key_values: the language model's cache, for text that continues.
            inputs_embeds: (batch, tokens, dim) instead of input_ids and audio.
            kwargs: num_items_in_batch goes to the loss, the rest to the language model.

        Returns:
            See `SpeechLMOutput`.

        Raises:
            ValueError: placeholders and speech frames differ in number, or inputs are missing.
        """
        num_items_in_batch = kwargs.pop("num_items_in_batch", None)
        features = SpeechFeatures()
        if attention_mask is None and past_key_values is None:
            tokens = inputs_embeds if inputs_embeds is not None else input_ids
            if tokens is not None:
                attention_mask = torch.ones(
                    tokens.shape[:2], dtype=torch.long, device=tokens.device
                )
        if inputs_embeds is None:
            audio = (input_features, input_features_mask, encoder_hidden_states, encoder_mask)
            features, prompt = self._merge(input_ids, audio, attention_mask, clips)
        else:
            prompt = MergedPrompt.unchanged(inputs_embeds, attention_mask)
        mask = prompt.attention_mask
        if position_ids is None and past_key_values is None and self._takes_position_ids:
            position_ids = (mask.long().cumsum(1) - 1).clamp_min(0)
        if position_ids is not None:
            kwargs["position_ids"] = position_ids
        if prompt.log_weight is not None:
            self._check_soft_drop(prompt.log_weight.shape[1])
            mask = soft_causal_mask(mask, prompt.log_weight, prompt.inputs_embeds.dtype)
        outputs = self.language_model(
            inputs_embeds=prompt.inputs_embeds,
            attention_mask=mask,
            past_key_values=past_key_values,
            **kwargs,
        )
        loss = None
        labels = prompt.labels(labels)
        if labels is not None:
            loss = self.loss_function(
                logits=outputs.logits,
                labels=labels.to(outputs.logits.device),
                vocab_size=outputs.logits.shape[-1],
                num_items_in_batch=num_items_in_batch,
            )
        return SpeechLMOutput(
            loss=loss,
            logits=outputs.logits,
            labels=labels,
            attention_mask=prompt.attention_mask,
            source_index=prompt.source_index,
            past_key_values=outputs.get("past_key_values"),
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
            speech_embeds=features.speech_embeds,
            speech_mask=features.speech_mask,
        )

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        input_features: Tensor | None = None,
        input_features_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_mask: Tensor | None = None,
        clips: Tensor | None = None,
        generation_config: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Continue prompts with the language model's own generate().

        Frames are merged and dropped for real. Prompts may be padded on either side; they are
        realigned to the left.

        Args:
            input_ids: (batch, tokens) prompts with one placeholder per speech frame.
            attention_mask: (batch, tokens); None = all real.
            input_features: as in `forward`, with input_features_mask, or encoder_hidden_states with
                encoder_mask instead.
            input_features_mask: bool.
            encoder_hidden_states: from `encode`.
            encoder_mask: bool.
            clips: as in `forward`.
            generation_config: default ``self.generation_config``, greedy after `from_towers`.
            kwargs: any argument of transformers' generate (max_new_tokens, num_beams, …).

        Returns:
            (batch * num_return_sequences, prompt + new tokens) ids, prompts left-padded: new tokens
            start at ``input_ids.shape[1]`` of a left-padded batch. With return_dict_in_generate,
            the language model's output whose ``sequences`` are those.

        Raises:
            ValueError: labels or transcripts are in the batch, or as in `forward`.
        """
        training_only = {"labels", "text_ids", "text_mask"} & kwargs.keys()
        if training_only:
            raise ValueError(
                f"generate() got {', '.join(sorted(training_only))}: this batch was collated for "
                "training, so its input_ids hold the transcript; collate with training=False"
            )
        if input_ids is None:
            raise ValueError("generate() needs input_ids: prompts with one placeholder per frame")
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        input_ids, attention_mask = left_align(input_ids, attention_mask)
        audio = (input_features, input_features_mask, encoder_hidden_states, encoder_mask)
        _, prompt = self._merge(input_ids, audio, attention_mask, clips, generating=True)
        # The language model's own generate() must not mix in its own defaults, such as sampling.
        self.language_model.generation_config = self.generation_config
        if generation_config is not None:
            kwargs["generation_config"] = generation_config
        output = self.language_model.generate(
            inputs_embeds=prompt.inputs_embeds,
            attention_mask=prompt.attention_mask,
            **kwargs,
        )
        new = output if isinstance(output, Tensor) else output.sequences
        prompts = input_ids.repeat_interleave(len(new) // len(input_ids), dim=0)
        sequences = torch.cat([prompts.to(new.device), new], dim=1)
        if isinstance(output, Tensor):
            return sequences
        output.sequences = sequences
        return output

    def _merge(
        self,
        input_ids: Tensor | None,
        audio: tuple[Tensor | None, ...],
        attention_mask: Any,
        clips: Tensor | None,
        *,
        generating: bool = False,
    ) -> tuple[SpeechFeatures, MergedPrompt]:
        """Embed the prompt and put the speech in; drop frames for real unless training."""
        if input_ids is None:
            raise ValueError("give input_ids (with audio), or inputs_embeds to forward()")
        placeholders = torch.eq(input_ids, self.config.audio_token_id)
        safe_ids = torch.where(placeholders, self.config.pad_token_id, input_ids)
        embeds = self.get_input_embeddings()(safe_ids)
        if audio[0] is None and audio[2] is None:
            if bool(placeholders.any()):
                raise ValueError(
                    "input_ids holds audio placeholders but there is no audio; give input_features "
                    "or encoder_hidden_states"
                )
            return SpeechFeatures(), MergedPrompt.unchanged(embeds, attention_mask)
        features = self.get_audio_features(*audio)
        drop = None
        if self.config.drop_threshold is not None and (generating or not self.training):
            features.drop_log_weight = None
            speech, mask = features.speech_embeds, features.speech_mask
            keep = frames_to_keep(speech, mask, self.pad_embedding(), self.config.drop_threshold)
            drop = ~keep[mask]
        return features, merge_speech(embeds, placeholders, features, attention_mask, drop, clips)

    def _check_soft_drop(self, tokens: int) -> None:
        """Refuse language models whose attention cannot add log m to its logits."""
        text = self.language_model.config
        if text._attn_implementation not in ("eager", "sdpa"):
            raise ValueError(
                f"soft dropping adds to attention logits; {text._attn_implementation!r} attention "
                "cannot: load the model with attn_implementation='sdpa'"
            )
        kinds = set(getattr(text, "layer_types", None) or ())
        if not self._takes_position_ids or kinds - {"full_attention", "sliding_attention"}:
            raise ValueError(
                f"soft dropping needs attention that takes an additive mask in every layer; "
                f"{type(self.language_model).__name__} has other layers or ALiBi: set "
                "drop_threshold=None for training"
            )
        window = getattr(text, "sliding_window", None)
        uses_window = getattr(text, "use_sliding_window", True)
        if window is not None and uses_window and tokens > window:
            raise ValueError(
                f"soft dropping takes sequences up to the sliding window of {window} tokens; got "
                f"{tokens}. Shorten the audio or set drop_threshold=None for training"
            )


def _takes(model: nn.Module, argument: str) -> bool:
    return argument in inspect.signature(model.forward).parameters
