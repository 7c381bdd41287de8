"""The miniature's language model: a tokenizer, and Llama's architecture that learns to copy."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from otreg.data.collate import IGNORED_LABEL
from otreg.data.padding import pad_ids
from otreg.synthetic.examples import (
    ASR,
    BOS,
    EOS,
    PAD,
    SPECIAL_TOKENS,
    UNK,
    Example,
    Exchange,
    check_mixture,
    draw_batches,
)
from otreg.synthetic.fit import MiniatureSettings, Report, fit, say_nothing

logger = logging.getLogger(__name__)


def train_language_model(
    sentences: Sequence[str],
    out: Path,
    settings: MiniatureSettings,
    seed: int,
    exchanges: Sequence[Exchange] = (),
    report: Report = say_nothing,
) -> None:
    """Train the tokenizer and the language model; save both to `out`.

    Args:
        sentences: for text and copies; see `otreg.synthetic.examples`.
        out: folder to write.
        settings: sizes, budgets and the mixture.
        seed: of weights and draws.
        exchanges: for answers.
        report: told of each step.

    Raises:
        ValueError: a mixture that does not go with the exchanges.
    """
    check_mixture(settings.mixture, exchanges)
    spoken = [part for e in exchanges for part in (e.text, e.instruction, e.answer)]
    tokenizer = train_tokenizer([*sentences, *spoken], settings.vocab_size)
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
    batches = draw_batches(sentences, tokenizer, settings, seed, exchanges)
    loss = fit(
        model,
        batches,
        lambda batch: _collate_language_model(batch, ids[PAD]),
        settings.language_model_learning_rate,
        seed,
        report=report,
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


def _collate_language_model(batch: Sequence[Example], pad: int) -> dict[str, Tensor]:
    labels = [[IGNORED_LABEL] * prompt + tokens[prompt:] for tokens, prompt in batch]
    return {
        "input_ids": pad_ids([tokens for tokens, _ in batch], pad),
        "attention_mask": pad_ids([[1] * len(tokens) for tokens, _ in batch], 0),
        "labels": pad_ids(labels, IGNORED_LABEL),
    }


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
