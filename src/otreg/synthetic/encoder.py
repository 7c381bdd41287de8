"""The miniature's speech encoder: Whisper's architecture, trained by CTC."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from otreg.data.audio import SAMPLE_RATE_HZ, audio_info, load_audio
from otreg.data.manifest import Utterance
from otreg.data.padding import pad_stack
from otreg.model.encoders import run_encoder
from otreg.model.frames import FramePlan, apply_frame_plan, encoder_frame_plan
from otreg.synthetic.fit import MiniatureSettings, MuonAndAdamW, Report, fit, say_nothing

logger = logging.getLogger(__name__)

_WINDOW_S = 30  # Whisper's own window; longer where an utterance is


class _EncoderWithCTC(nn.Module):
    """Whisper's encoder at true length with a CTC head, for training the encoder alone."""

    def __init__(self, tower: WhisperEncoder, num_units: int) -> None:
        super().__init__()
        self.tower = tower
        self.plan = encoder_frame_plan(tower.config)
        self.head = nn.Linear(tower.config.d_model, num_units + 1)

    def forward(
        self, input_features: Tensor, mask: Tensor, units: Tensor, unit_lengths: Tensor
    ) -> dict[str, Tensor]:
        hidden, hidden_mask = run_encoder(
            self.tower, self.tower.config, self.plan, input_features, mask, short_mel=True
        )
        log_probs = self.head(hidden).float().log_softmax(-1).transpose(0, 1)
        loss = nn.functional.ctc_loss(
            log_probs, units, hidden_mask.sum(1), unit_lengths, zero_infinity=True
        )
        return {"loss": loss}


def train_encoder(
    utterances: Sequence[Utterance],
    out: Path,
    settings: MiniatureSettings,
    seed: int,
    report: Report = say_nothing,
) -> None:
    """Train the encoder by CTC on characters or phonemes; save it with its feature extractor to `out`.

    `report` is told of each step.

    Raises:
        ValueError: no utterance is long enough for its transcript.
    """
    longest_s = max(audio_info(utterance).duration_s for utterance in utterances)
    extractor = WhisperFeatureExtractor(
        feature_size=settings.num_mels,
        hop_length=settings.hop_length,
        n_fft=2 * settings.hop_length,
        sampling_rate=SAMPLE_RATE_HZ,
        chunk_length=max(_WINDOW_S, math.ceil(longest_s)),
    )
    features = [
        torch.from_numpy(
            extractor(
                load_audio(utterance),
                sampling_rate=SAMPLE_RATE_HZ,
                padding="do_not_pad",
                return_tensors="np",
            )["input_features"][0].T.copy()
        )
        for utterance in utterances
    ]
    spelled = _spell(utterances, settings.units)
    alphabet = sorted({unit for units in spelled for unit in units})
    index = {unit: number for number, unit in enumerate(alphabet, start=1)}
    targets = [torch.tensor([index[unit] for unit in units], dtype=torch.long) for units in spelled]
    torch.manual_seed(seed)
    config = WhisperConfig(
        d_model=settings.hidden_size,
        encoder_layers=settings.encoder_layers,
        encoder_attention_heads=4,
        encoder_ffn_dim=4 * settings.hidden_size,
        num_mel_bins=settings.num_mels,
        max_source_positions=extractor.nb_max_frames // 2,
        architectures=["WhisperEncoder"],
        vocab_size=4,  # of the decoder that is never built; so are these ids
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        short_mel=True,  # type: ignore[call-arg]  # ours: tells from_towers how it was trained
    )
    model = _EncoderWithCTC(WhisperEncoder(config), len(alphabet))
    _check_lengths(utterances, features, targets, model.plan)
    batches = _encoder_batches(features, settings, seed)

    def collate(rows: list[int]) -> dict[str, Tensor]:
        padded, mask = pad_stack([features[row] for row in rows])
        return {
            "input_features": padded,
            "mask": mask,
            "units": torch.cat([targets[row] for row in rows]),
            "unit_lengths": torch.tensor([len(targets[row]) for row in rows]),
        }

    matrices = [p for p in model.tower.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    rate = settings.encoder_learning_rate
    optimizer = MuonAndAdamW(matrices, others, rate, settings.encoder_muon_learning_rate)
    loss = fit(model, batches, collate, rate, seed, optimizer, report)
    logger.info("encoder: mean training loss %.3f over %d steps", loss, len(batches))
    model.tower.save_pretrained(out)
    extractor.save_pretrained(out)


def _spell(utterances: Sequence[Utterance], units: str) -> list[list[str]]:
    if units == "characters":
        return [list(utterance.text) for utterance in utterances]
    if units != "phonemes":
        raise ValueError(f"units must be characters or phonemes, got {units!r}")
    from otreg.synthetic.espeak import phonemes

    return phonemes([u.text for u in utterances], [u.language for u in utterances])


def _check_lengths(
    utterances: Sequence[Utterance],
    features: Sequence[Tensor],
    targets: Sequence[Tensor],
    plan: FramePlan,
) -> None:
    """Warn of utterances with more units than encoder frames, from which CTC learns nothing."""
    short = [
        utterance.name
        for utterance, frames, target in zip(utterances, features, targets, strict=True)
        if apply_frame_plan(len(frames), plan)
        < len(target) + int((target[1:] == target[:-1]).sum())
    ]
    if len(short) == len(utterances):
        raise ValueError(
            "every utterance has more units than the encoder has frames (25 a second): are the "
            f"transcripts those of this audio? The first: {short[0]}"
        )
    if short:
        logger.warning(
            "encoder: %d of %d utterances have more units than frames (25 a second) and teach "
            "it nothing; the first: %s",
            len(short),
            len(utterances),
            short[0],
        )


def _encoder_batches(
    features: Sequence[Tensor], settings: MiniatureSettings, seed: int
) -> list[list[int]]:
    """Draw the batches of every epoch: neighbours in (jittered) length, in random order."""
    rng = random.Random(seed)
    batches = []
    for _ in range(settings.encoder_epochs):
        order = sorted(range(len(features)), key=lambda row: len(features[row]) + 10 * rng.random())
        size = settings.encoder_batch_size
        epoch = [order[start : start + size] for start in range(0, len(order), size)]
        rng.shuffle(epoch)
        batches += epoch
    return batches
