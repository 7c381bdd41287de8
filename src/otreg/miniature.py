"""Tiny towers from anybody's manifests: a speech encoder and a language model to try things on.

No weights need to be downloaded: the encoder has Whisper's architecture and learns the characters
(or phonemes) of the transcripts by CTC; the language model has Llama's and learns to write the
manifests' words and to copy a noisy token sequence, ``<bos> X~ <asr> X <eos>``, which is what a
speech language model asks of it. Both are saved in Hugging Face's format, and are then used as any
other tower.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import random
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from otreg.data.audio import SAMPLE_RATE_HZ, audio_info, load_audio
from otreg.data.manifest import Utterance, read_manifest
from otreg.model.encoders import run_encoder
from otreg.model.frames import FramePlan, apply_frame_plan, encoder_frame_plan

logger = logging.getLogger(__name__)

PAD, UNK, BOS, EOS, ASR = SPECIAL_TOKENS = ("<pad>", "<unk>", "<bos>", "<eos>", "<asr>")
_WINDOW_S = 30  # Whisper's own window; longer where an utterance is


@dataclass(frozen=True)
class MiniatureSettings:
    """Sizes and budgets of the two towers.

    Attributes:
        hidden_size: width of both towers.
        units: what the encoder learns to tell apart, "characters" of the transcripts or their
            "phonemes" by espeak-ng (extra `demo`; easier to learn, in its languages).
        encoder_layers: layers of the encoder.
        num_mels: mel bands.
        hop_length: samples between feature frames; the encoder halves their rate.
        encoder_epochs: passes over the manifests.
        encoder_batch_size: utterances in a step.
        encoder_learning_rate: peak, of AdamW.
        encoder_muon_learning_rate: peak, of Muon.
        language_model_layers: layers of the language model.
        vocab_size: size of the byte-pair vocabulary, special tokens included (fewer where the text
            has fewer merges to offer).
        language_model_steps: optimiser steps.
        language_model_batch_size: sentences in a step.
        language_model_learning_rate: peak.
        deletion: share of tokens that the noisy copy X~ lacks.
        substitution: share of tokens that X~ has replaced by random ones.
        repetition: chance that a token of X~ stands twice, as sounds stand over several frames.
    """

    hidden_size: int = 128
    units: Literal["characters", "phonemes"] = "characters"
    encoder_layers: int = 3
    num_mels: int = 48
    hop_length: int = 320
    encoder_epochs: int = 6
    encoder_batch_size: int = 16
    encoder_learning_rate: float = 2e-3
    encoder_muon_learning_rate: float = 5e-3
    language_model_layers: int = 3
    vocab_size: int = 160
    language_model_steps: int = 1700
    language_model_batch_size: int = 32
    language_model_learning_rate: float = 2e-3
    deletion: float = 0.06
    substitution: float = 0.12
    repetition: float = 0.15


def build_miniature(
    manifests: Sequence[Path | str],
    out: Path | str,
    *,
    texts: Sequence[Path | str] = (),
    seed: int = 0,
    settings: MiniatureSettings | None = None,
    num_processes: int = 2,
) -> Path:
    """Train both towers, side by side, and write `out`/audio_tower and `out`/language_model.

    Args:
        manifests: speech with transcripts (JSONL, see `otreg.data.manifest`); the encoder learns from
            all of it, the language model from the transcripts.
        out: folder to write; made where missing.
        texts: further text files, a sentence a line, for the language model alone.
        seed: of initial weights, data order and noise.
        settings: sizes and budgets.
        num_processes: 2 trains the towers at the same time (one thread each), 1 one after the other.

    Returns:
        `out` as a path.

    Raises:
        ValueError: a manifest or text file is empty or wrong, or `out` holds towers already.
    """
    settings = settings or MiniatureSettings()
    out = Path(out)
    for name in ("audio_tower", "language_model"):
        if (out / name).exists():
            raise ValueError(f"{out / name} exists already; name another folder, or remove it")
    utterances = [u for manifest in manifests for u in read_manifest(manifest)]
    if not utterances:
        raise ValueError("otreg miniature needs at least one manifest with utterances")
    sentences = [u.text for u in utterances]
    for path in texts:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
        lines = [line for line in lines if line]
        if not lines:
            raise ValueError(f"{path} holds no text; expected one sentence a line")
        sentences += lines
    language_model = (sentences, out / "language_model", settings, seed)
    encoder = (utterances, out / "audio_tower", settings, seed)
    if num_processes == 1:
        train_language_model(*language_model)
        train_encoder(*encoder)
        return out
    # Two torch processes of several threads each starve each other on two cores: one thread each.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context, initializer=one_thread) as pool:
        jobs = [
            pool.submit(train_language_model, *language_model),
            pool.submit(train_encoder, *encoder),
        ]
        for job in as_completed(jobs):
            job.result()
    return out


def one_thread() -> None:
    """Limit this process's torch to one thread (for workers that share the cores)."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


class _Batches(torch.utils.data.Dataset):
    """A fixed sequence of ready batches, which the Trainer takes one at a time, in order."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        return self.batches[index]


class _InOrder(Trainer):
    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(train_dataset or self.train_dataset)  # type: ignore[arg-type]


class _MuonAndAdamW(torch.optim.Optimizer):
    """Muon for the matrices of the layers, AdamW for everything else, as one optimizer.

    On the encoder it reaches in 4 epochs what AdamW alone reaches in 7 (docs/log.md, 2026-11-21).
    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; the step is torch's own.
    """

    def __init__(
        self, matrices: list[nn.Parameter], others: list[nn.Parameter], lr: float, muon_lr: float
    ) -> None:
        self.parts = [
            torch.optim.Muon(
                matrices, lr=muon_lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.01),
        ]
        super().__init__([*matrices, *others], {"lr": lr})
        # The parts' own groups, so that a scheduler reaches both.
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step(closure)


def _fit(
    model: nn.Module,
    batches: list[Any],
    collate: Any,
    learning_rate: float,
    seed: int,
    optimizer: torch.optim.Optimizer | None = None,
) -> float:
    """Train once over the batches with Hugging Face's Trainer; return the mean training loss."""
    with tempfile.TemporaryDirectory() as unused:
        arguments = TrainingArguments(
            output_dir=unused,
            save_strategy="no",
            report_to=[],
            per_device_train_batch_size=1,
            max_steps=len(batches),
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=max(1, len(batches) // 10),
            weight_decay=0.01,
            adam_beta2=0.98,
            max_grad_norm=1.0,
            seed=seed,
            remove_unused_columns=False,
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=False,
        )
        trainer = _InOrder(
            model=model,
            args=arguments,
            train_dataset=_Batches(batches),
            data_collator=lambda items: collate(items[0]),
            optimizers=(optimizer, None),
        )
        trainer.remove_callback(PrinterCallback)
        return float(trainer.train().training_loss)


# ---------------------------------------------------------------- language model


def train_language_model(
    sentences: Sequence[str], out: Path, settings: MiniatureSettings, seed: int
) -> None:
    """Train the tokenizer and the language model on sentences; save both to `out`."""
    tokenizer = train_tokenizer(sentences, settings.vocab_size)
    torch.manual_seed(seed)
    ids = tokenizer.get_vocab()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.language_model_layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=3 * settings.hidden_size,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=ids[PAD],
        bos_token_id=ids[BOS],
        eos_token_id=ids[EOS],
    )
    model = LlamaForCausalLM(config)
    batches = _language_model_batches(sentences, tokenizer, settings, seed)
    loss = _fit(
        model,
        batches,
        lambda batch: _collate_language_model(batch, ids[PAD]),
        settings.language_model_learning_rate,
        seed,
    )
    logger.info("language model: mean training loss %.3f over %d steps", loss, len(batches))
    give_pad_a_vector(model, ids[PAD])
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    # transformers rebuilds the tokenizer of some architectures (Qwen2's) by its own rules on loading.
    reloaded = AutoTokenizer.from_pretrained(out)
    if reloaded(sentences[0])["input_ids"] != tokenizer(sentences[0])["input_ids"]:
        raise RuntimeError(f"the tokenizer in {out} does not come back as it was saved")


def train_tokenizer(sentences: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-pair tokenizer with `SPECIAL_TOKENS` on sentences."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE(unk_token=UNK))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    raw.train_from_iterator(
        sentences,
        trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token=PAD,
        unk_token=UNK,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=[ASR],
        clean_up_tokenization_spaces=False,
    )


def _language_model_batches(
    sentences: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
    settings: MiniatureSettings,
    seed: int,
) -> list[list[tuple[list[int], int]]]:
    """Draw every training batch: examples of (token ids, length of the unsupervised prompt).

    Early batches copy random tokens, which teaches to copy much sooner than sentences do (half of
    the examples at the start, none from the middle on). One sentence in two is a random draw of the
    text's words, so that copying does not lean on what words tend to follow each other.
    """
    rng = random.Random(seed)
    vocabulary = tokenizer.get_vocab()
    bos, eos, asr = vocabulary[BOS], vocabulary[EOS], vocabulary[ASR]
    first = len(SPECIAL_TOKENS)
    encoded: list[list[int]] = tokenizer(list(sentences), add_special_tokens=False)["input_ids"]
    words = sorted({word for text in sentences for word in text.split()})
    word_ids = tokenizer(words, add_special_tokens=False)["input_ids"]
    word_counts = [len(text.split()) for text in sentences]

    def draw(progress: float) -> tuple[list[int], int]:
        if rng.random() < 0.5 - progress:
            tokens = [rng.randrange(first, len(tokenizer)) for _ in range(rng.randint(5, 25))]
            return [bos, *tokens, asr, *tokens, eos], len(tokens) + 2
        if rng.random() < 0.5:
            tokens = [
                token for _ in range(rng.choice(word_counts)) for token in rng.choice(word_ids)
            ]
        else:
            tokens = rng.choice(encoded)
        if rng.random() < 0.2:
            return [bos, *tokens, eos], 1
        noisy = []
        for token in tokens:
            event = rng.random()
            if event >= settings.deletion:
                replaced = event < settings.deletion + settings.substitution
                heard = rng.randrange(first, len(tokenizer)) if replaced else token
                noisy += [heard] * (1 + (rng.random() < settings.repetition))
        return [bos, *noisy, asr, *tokens, eos], len(noisy) + 2

    # Four batches are drawn at a time and cut from their examples sorted by length: less padding.
    batches: list[list[tuple[list[int], int]]] = []
    size = settings.language_model_batch_size
    while len(batches) < settings.language_model_steps:
        progress = len(batches) / settings.language_model_steps
        pool = sorted(
            (draw(progress) for _ in range(4 * size)), key=lambda example: len(example[0])
        )
        group = [pool[start : start + size] for start in range(0, len(pool), size)]
        rng.shuffle(group)
        batches += group
    return batches[: settings.language_model_steps]


def _collate_language_model(batch: list[tuple[list[int], int]], pad: int) -> dict[str, Tensor]:
    longest = max(len(tokens) for tokens, _ in batch)
    input_ids = torch.full((len(batch), longest), pad)
    labels = torch.full((len(batch), longest), -100)
    mask = torch.zeros(len(batch), longest, dtype=torch.long)
    for row, (tokens, prompt) in enumerate(batch):
        input_ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, prompt : len(tokens)] = torch.tensor(tokens[prompt:])
        mask[row, : len(tokens)] = 1
    return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}


@torch.no_grad()
def give_pad_a_vector(model: nn.Module, pad_token_id: int) -> None:
    """Move the pad row away from every token: their least used direction, at a token's norm.

    A language model never trains its pad row, and a tiny one leaves it next to other unused rows;
    as the anchor of "nothing said" it must be a vector of its own.
    """
    table = model.get_input_embeddings().weight  # type: ignore[operator]
    others = table[torch.arange(len(table)) != pad_token_id]
    directions = torch.linalg.svd(others, full_matrices=False).Vh
    table[pad_token_id] = directions[-1] * others.norm(dim=1).median()


# ---------------------------------------------------------------- encoder


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
    utterances: Sequence[Utterance], out: Path, settings: MiniatureSettings, seed: int
) -> None:
    """Train the encoder by CTC on characters or phonemes; save it with its feature extractor to `out`.

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
        padded = nn.utils.rnn.pad_sequence([features[row] for row in rows], batch_first=True)
        lengths = torch.tensor([len(features[row]) for row in rows])
        return {
            "input_features": padded,
            "mask": torch.arange(padded.shape[1]) < lengths[:, None],
            "units": torch.cat([targets[row] for row in rows]),
            "unit_lengths": torch.tensor([len(targets[row]) for row in rows]),
        }

    matrices = [p for p in model.tower.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    rate = settings.encoder_learning_rate
    optimizer = _MuonAndAdamW(matrices, others, rate, settings.encoder_muon_learning_rate)
    loss = _fit(model, batches, collate, rate, seed, optimizer)
    logger.info("encoder: mean training loss %.3f over %d steps", loss, len(batches))
    model.tower.save_pretrained(out)
    extractor.save_pretrained(out)


def _spell(utterances: Sequence[Utterance], units: str) -> list[list[str]]:
    if units == "characters":
        return [list(utterance.text) for utterance in utterances]
    if units != "phonemes":
        raise ValueError(f"units must be characters or phonemes, got {units!r}")
    from otreg.data.synthesize import phonemes

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
