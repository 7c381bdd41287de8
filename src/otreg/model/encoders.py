"""Running any Hugging Face speech encoder so that no utterance hears its batch mates or padding.

| encoder | how it is run |
|---|---|
| Whisper | re-padded with silence to its fixed length (30 s), then trimmed to the true length |
| Whisper, ``short_mel`` | at the batch's length; position table sliced, padding masked everywhere |
| wav2vec 2.0, HuBERT, WavLM with layer norm; Wav2Vec2-BERT | batched, with an attention mask |
| all others | one utterance at a time, trimmed to its length |

The others are those whose feature encoder normalises over time (``feat_extract_norm="group"``),
that have convolutions over unmasked padding (``add_adapter``), or that we have not checked.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel, WhisperConfig
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from otreg.model.frames import FramePlan, apply_frame_plan, lengths_to_mask

_MASKED_FAMILIES = ("wav2vec2", "hubert", "wavlm")
# WhisperFeatureExtractor: (log10 mel + 4) / 4, where log10 mel is at least -10 and at least 8 below
# the utterance's maximum.
_SILENCE = (-10.0 + 4.0) / 4.0
_DYNAMIC_RANGE = 8.0 / 4.0


def build_audio_tower(audio_config: Any) -> PreTrainedModel:
    """Build a randomly initialised speech encoder; of Whisper, its encoder alone."""
    if audio_config.model_type == "whisper":
        return WhisperEncoder(audio_config)
    return AutoModel.from_config(audio_config)


def is_batch_invariant(audio_config: Any) -> bool:
    """Tell whether masked, batched encoding equals encoding each utterance alone.

    Args:
        audio_config: the encoder's configuration.

    Returns:
        True where that was tested; False asks for one utterance at a time.
    """
    if audio_config.model_type == "whisper":
        return True
    if getattr(audio_config, "add_adapter", False):
        return False
    if audio_config.model_type == "wav2vec2-bert":
        return True
    return (
        audio_config.model_type in _MASKED_FAMILIES
        and getattr(audio_config, "feat_extract_norm", "group") == "layer"
        and not getattr(audio_config, "conv_pos_batch_norm", False)
    )


def max_feature_frames(audio_config: Any) -> int | None:
    """Give the most input frames that an encoder takes, None where it takes any number."""
    if audio_config.model_type == "whisper":
        return 2 * int(audio_config.max_source_positions)
    return None


def run_encoder(
    tower: nn.Module,
    audio_config: Any,
    plan: FramePlan,
    features: Tensor,
    mask: Tensor,
    *,
    short_mel: bool = False,
) -> tuple[Tensor, Tensor]:
    """Encode padded utterances as if each had been encoded alone.

    Args:
        tower: the speech encoder.
        audio_config: its configuration.
        plan: its frame plan.
        features: (batch, frames, mels) or (batch, samples); padding may hold anything.
        mask: the same without mels, bool, True = real; padding on the right.
        short_mel: Whisper at the true length instead of 30 s.

    Returns:
        hidden (batch, encoder frames, encoder_dim), zero at padding, and its bool mask.

    Raises:
        ValueError: an utterance too long or too short for the encoder, or a mask that is not padded
            on the right.
    """
    weight = next(tower.parameters())
    features, mask = features.to(weight.device, weight.dtype), mask.to(weight.device)
    lengths = mask.sum(1)
    if not torch.equal(mask, lengths_to_mask(lengths, mask.shape[1])):
        raise ValueError(
            "input_features_mask must be True on the first frames of each row and False after them "
            "(right padding); pad features on the right whatever the padding side of the text"
        )
    shortest, longest = int(lengths.min()), int(lengths.max())
    limit = max_feature_frames(audio_config)
    if limit is not None and longest > limit:
        raise ValueError(
            f"the encoder takes at most {limit} feature frames; got {longest}. Cut the audio into "
            "shorter segments (start_s, end_s in the manifest)"
        )
    if apply_frame_plan(shortest, plan) < 1:
        raise ValueError(
            f"an utterance of {shortest} feature frames is too short: the encoder leaves no frame "
            "of it. Leave it out or pad the audio with silence"
        )
    features = features[:, :longest]
    mask = mask[:, :longest]
    if audio_config.model_type == "whisper":
        encode = _whisper_short if short_mel else _whisper_padded
        hidden = encode(tower, features, mask)
    elif is_batch_invariant(audio_config):
        hidden = _masked(tower, features, mask)
    else:
        hidden = _one_at_a_time(tower, plan, features, lengths)
    encoder_lengths = apply_frame_plan(lengths, plan)
    hidden = hidden[:, : int(encoder_lengths.max())]
    encoder_mask = lengths_to_mask(encoder_lengths, hidden.shape[1])
    return torch.where(encoder_mask[..., None], hidden, 0), encoder_mask


def _whisper_padded(tower: nn.Module, features: Tensor, mask: Tensor) -> Tensor:
    """Encode what WhisperFeatureExtractor makes of zero-padded audio, given the true frames."""
    config: WhisperConfig = tower.config  # type: ignore[assignment]
    keep = mask[..., None]
    loudest = torch.where(keep, features, -torch.inf).amax((1, 2))
    silence = (loudest - _DYNAMIC_RANGE).clamp_min(_SILENCE)
    features = torch.where(keep, features, silence[:, None, None])
    missing = 2 * config.max_source_positions - features.shape[1]
    padding = silence[:, None, None].expand(-1, missing, features.shape[2])
    return tower(torch.cat([features, padding], 1).transpose(1, 2)).last_hidden_state


def _whisper_short(tower: nn.Module, features: Tensor, mask: Tensor) -> Tensor:
    """Run WhisperEncoder's layers at the true length; each convolution sees zeros after the end."""
    encoder: Any = tower
    config: WhisperConfig = encoder.config
    hidden = torch.where(mask[..., None], features, 0).transpose(1, 2)
    hidden = nn.functional.gelu(encoder.conv1(hidden))
    hidden = torch.where(mask[:, None], hidden, 0)
    hidden = nn.functional.gelu(encoder.conv2(hidden)).transpose(1, 2)
    mask = lengths_to_mask((mask.sum(1) - 1) // 2 + 1, hidden.shape[1])
    hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
    hidden = nn.functional.dropout(hidden, p=config.dropout, training=encoder.training)
    attention_mask = create_bidirectional_mask(config, hidden, mask.long())
    for layer in encoder.layers:
        drops = encoder.training and config.encoder_layerdrop > 0
        if not (drops and torch.rand([]) < config.encoder_layerdrop):
            hidden = layer(hidden, attention_mask)
    return encoder.layer_norm(hidden)


def _masked(tower: nn.Module, features: Tensor, mask: Tensor) -> Tensor:
    keep = mask if features.dim() == 2 else mask[..., None]
    with warnings.catch_warnings():
        # WavLM's code in transformers gives torch a boolean and a float mask together.
        warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask and attn_mask")
        return tower(torch.where(keep, features, 0), attention_mask=mask.long()).last_hidden_state


def _one_at_a_time(tower: nn.Module, plan: FramePlan, features: Tensor, lengths: Tensor) -> Tensor:
    rows = []
    for row, length in zip(features, lengths.tolist(), strict=True):
        hidden = tower(row[None, :length]).last_hidden_state[0]
        if len(hidden) != apply_frame_plan(length, plan):
            raise ValueError(
                f"the encoder made {len(hidden)} frames of {length} where encoder_frame_plan says "
                f"{apply_frame_plan(length, plan)}; pass the plan of its strided layers"
            )
        rows.append(hidden)
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)
