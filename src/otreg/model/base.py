"""What every part of the speech language model shares: embeddings, encoding, LoRA, train mode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from otreg.model import lora
from otreg.model.card import write_model_card
from otreg.model.compression import keep_log_weight, merge_pairs, snap_to_vocabulary
from otreg.model.configuration import SpeechLMConfig
from otreg.model.embeddings import embedding_row, embedding_rows, embedding_scale
from otreg.model.encoders import run_encoder
from otreg.model.evaluation_mode import rest
from otreg.model.frames import lengths_to_mask
from otreg.model.outputs import EncoderStates, SpeechFeatures
from otreg.model.towers import is_frozen

if TYPE_CHECKING:
    from typing_extensions import Self


class SpeechLMPreTrainedModel(PreTrainedModel):
    """Audio in, speech embeddings out; the base of `SpeechLMForConditionalGeneration`."""

    config_class = SpeechLMConfig
    config: SpeechLMConfig
    main_input_name = "input_ids"
    input_modalities = ["audio", "text"]  # noqa: RUF012 (transformers declares it so)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012

    audio_tower: PreTrainedModel
    multi_modal_projector: Any  # StackMLPAdapter | ConvAdapter
    language_model: Any  # PreTrainedModel with GenerationMixin

    def get_input_embeddings(self) -> nn.Module:
        """Give the language model's token embeddings."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Set the language model's token embeddings."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module | None:
        """Give the language model's output layer."""
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Set the language model's output layer."""
        self.language_model.set_output_embeddings(value)

    def get_decoder(self) -> nn.Module:
        """Give the language model without its head."""
        return self.language_model.get_decoder()

    def pad_embedding(self) -> Tensor:
        """Give the embedding of the pad token, (dim,): the anchor for "nothing said"."""
        return embedding_row(self.get_input_embeddings(), self.config.pad_token_id)

    def embedding_table(self) -> Tensor:
        """Give the token embeddings as the language model receives them, (vocab, dim).

        Gemma scales its weight: this is then a copy, for measurements and not for every step.
        """
        return embedding_rows(self.get_input_embeddings())

    def train(self, mode: bool = True) -> Self:
        """Set training mode, but leave frozen parts in evaluation mode (no dropout in them)."""
        super().train(mode)
        for part in (self.audio_tower, self.multi_modal_projector, self.language_model):
            if mode and is_frozen(part):
                rest(part)
        return self

    def save_pretrained(  # type: ignore[override]
        self, save_directory: Any, is_main_process: bool = True, **kwargs: Any
    ) -> None:
        """Save as transformers does, with a model card that says how to load the model.

        Args:
            save_directory: the folder; a README.md in it stays as it is.
            is_main_process: whether this process writes.
            kwargs: as for transformers.
        """
        super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)
        if is_main_process:
            write_model_card(save_directory, self.config)

    def encode(self, input_features: Tensor, input_features_mask: Tensor) -> EncoderStates:
        """Run the encoder alone, to cache what a frozen one gives.

        Args:
            input_features: (batch, frames, mels) or (batch, samples).
            input_features_mask: (batch, frames or samples) bool.

        Returns:
            encoder_hidden_states and encoder_mask, as `forward` takes them.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen(self.audio_tower)):
            hidden, mask = run_encoder(
                self.audio_tower,
                self.config.audio_config,
                self.config.encoder_frame_plan,
                input_features,
                input_features_mask.bool(),
                short_mel=self.config.short_mel,
            )
        return EncoderStates(encoder_hidden_states=hidden, encoder_mask=mask)

    def get_audio_features(
        self,
        input_features: Tensor | None = None,
        input_features_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_mask: Tensor | None = None,
    ) -> SpeechFeatures:
        """Turn audio, or cached encoder states, into speech embeddings.

        Args:
            input_features: (clips, frames, mels) or (clips, samples); padding may hold anything.
            input_features_mask: bool; None = all real.
            encoder_hidden_states: (clips, encoder frames, encoder_dim) from `encode`, instead.
            encoder_mask: (clips, encoder frames) bool; None = all real.

        Returns:
            See `SpeechFeatures`.

        Raises:
            ValueError: both or neither of the two inputs.
        """
        if input_features is not None and encoder_hidden_states is None:
            if input_features_mask is None:
                input_features_mask = torch.ones(input_features.shape[:2], dtype=torch.bool)
            states = self.encode(input_features, input_features_mask)
            hidden, mask = states.encoder_hidden_states, states.encoder_mask
        elif encoder_hidden_states is not None and input_features is None:
            hidden = encoder_hidden_states
            everything = torch.ones(hidden.shape[:2], dtype=torch.bool)
            mask = everything if encoder_mask is None else encoder_mask
        else:
            raise ValueError(
                "expected either input_features or encoder_hidden_states; got "
                + ("neither" if input_features is None else "both")
            )
        weight = self.multi_modal_projector.output.weight
        hidden = hidden.to(weight.device, weight.dtype)
        speech, mask = self.multi_modal_projector(hidden, mask.to(weight.device).bool())
        features = SpeechFeatures(last_hidden_state=hidden, num_placeholders=mask.sum(1))
        config = self.config
        if config.merge_threshold is not None:
            speech, keep = merge_pairs(speech, mask, config.merge_threshold)
            features.placeholder_keep = keep
            lengths = keep.sum(1)
            rows = torch.split(speech[keep], lengths.tolist())
            speech = nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
            mask = lengths_to_mask(lengths, speech.shape[1])
        features.speech_embeds, features.speech_mask = speech, mask
        if config.drop_threshold is not None and self.training:
            log_weight = keep_log_weight(
                speech, mask, self.pad_embedding(), config.drop_threshold, config.drop_temperature
            )
            features.drop_log_weight = log_weight[mask]
        embedding: Any = self.get_input_embeddings()
        features.pooler_output = snap_to_vocabulary(
            speech[mask],
            embedding.weight,
            config.snap,
            config.snap_temperature,
            scale=embedding_scale(embedding),
        )
        return features

    def add_lora(
        self,
        r: int = 8,
        alpha: float = 16,
        dropout: float = 0.0,
        target_modules: list[str] | None = None,
    ) -> None:
        """Add LoRA to the language model; it starts as the identity and is saved with the model.

        Args:
            r: rank, >= 1.
            alpha: the update is scaled by alpha / r.
            dropout: on the update's inputs, in [0, 1).
            target_modules: names of linear layers; default the attention projections.

        Raises:
            ValueError: there is LoRA already, or no such module.
        """
        if self.config.lora is not None:
            raise ValueError("the model has LoRA already; call merge_lora() first")
        targets = target_modules or lora.default_targets(self.language_model)
        options = {"r": r, "alpha": alpha, "dropout": dropout, "target_modules": list(targets)}
        lora.inject_lora(self.language_model, options)
        self.config.lora = options

    def merge_lora(self) -> None:
        """Add the LoRA updates to the weights; without LoRA, do nothing."""
        if self.config.lora is not None:
            lora.merge_lora(self.language_model)
            self.config.lora = None

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise the adapter as torch does, its last layer at the wanted norm."""
        if isinstance(module, nn.Linear | nn.Conv1d | nn.LayerNorm):
            module.reset_parameters()
