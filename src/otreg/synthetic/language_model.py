"""The miniature's language model: a tokenizer, and Llama's architecture that learns to copy."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from otreg.synthetic.fit import MiniatureSettings, fit

logger = logging.getLogger(__name__)

PAD, UNK, BOS, EOS, ASR = SPECIAL_TOKENS = ("<pad>", "<unk>", "<bos>", "<eos>", "<asr>")


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
    loss = fit(
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
