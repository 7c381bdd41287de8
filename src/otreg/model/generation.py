"""Speech to text with a model: batched decoding, in the order of the rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from otreg.data.collate import SpeechTextCollator
from otreg.data.dataset import Example, SpeechTextDataset
from otreg.data.utterance import Utterance
from otreg.model.evaluation_mode import evaluating

if TYPE_CHECKING:
    from otreg.data.encoder_cache import EncoderCache

Data = SpeechTextDataset | Sequence[Utterance] | str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Transcription:
    """What a model made of one row.

    Args:
        id: the row's id.
        reference: its transcript, or the last turn of its assistant; "" where unknown.
        hypothesis: the decoded text.
        hit_limit: whether decoding stopped at max_new_tokens, not at an end-of-sequence token.

    """

    id: str
    reference: str
    hypothesis: str
    hit_limit: bool


@dataclass(frozen=True)
class Hypothesis:
    """One of several answers to a row.

    Args:
        text: the answer.
        ids: its tokens, the end-of-sequence token included where it was reached.
        log_prob: log P(ids | row), in nats, by the model itself: before temperature and top-p.
        token_log_probs: of each token; they add up to log_prob.
    """

    text: str
    ids: tuple[int, ...]
    log_prob: float
    token_log_probs: tuple[float, ...]


def transcribe(
    model: Any,
    processor: Any,
    data: Data,
    *,
    batch_size: int = 16,
    max_new_tokens: int = 200,
    device: str | torch.device | None = None,
    encoder_cache: EncoderCache | None = None,
    progress: bool = False,
) -> list[Transcription]:
    """Decode greedily; rows of like length share a batch, so that little is padding.

    Args:
        model: `SpeechLMForConditionalGeneration`; put into evaluation mode meanwhile.
        processor: its `SpeechLMProcessor`.
        data: a dataset, or utterances or manifests to make one of.
        batch_size: rows decoded together.
        max_new_tokens: most tokens of an answer.
        device: where to decode; the model is moved there and stays. None = where it is.
        encoder_cache: the encoder's outputs for this data; None = encode the audio.
        progress: whether to show a progress bar on the terminal.

    Returns:
        One transcription per row, in the order of the data.

    Raises:
        AudioError: for audio that cannot be used.
        ValueError: for numbers out of range, or a cache beside a dataset, which has its own.

    """
    dataset = _dataset(data, processor, encoder_cache)
    stops = model.generation_config.eos_token_id
    done: dict[int, Transcription] = {}
    options = {"max_new_tokens": max_new_tokens, "do_sample": False, "num_beams": 1}
    for positions, examples, tokens, _ in _generated(
        model, processor, dataset, batch_size, device, progress, options
    ):
        texts = processor.batch_decode(tokens, skip_special_tokens=True)
        limits = _hit_limit(tokens, stops, max_new_tokens)
        for position, example, text, limit in zip(positions, examples, texts, limits, strict=True):
            done[position] = Transcription(example["id"], example["text"], text.strip(), limit)
    return [done[position] for position in range(len(dataset))]


def decode(
    model: Any,
    processor: Any,
    data: Data,
    *,
    num_return_sequences: int = 1,
    do_sample: bool = False,
    num_beams: int | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    batch_size: int = 16,
    max_new_tokens: int = 200,
    device: str | torch.device | None = None,
    encoder_cache: EncoderCache | None = None,
    progress: bool = False,
) -> list[list[Hypothesis]]:
    """Decode several answers to each row, with their probabilities.

    Args:
        model: `SpeechLMForConditionalGeneration`; put into evaluation mode meanwhile.
        processor: its `SpeechLMProcessor`.
        data: a dataset, or utterances or manifests to make one of.
        num_return_sequences: answers to each row.
        do_sample: draw them by torch's random state; False = the best of a beam search.
        num_beams: beams; None = as many as answers, 1 where they are sampled.
        temperature: of the draws, > 0.
        top_p: draws are from the likeliest tokens of that share of the probability.
        batch_size: as for `transcribe`, like the next four.
        max_new_tokens: most tokens of an answer.
        device: where to decode.
        encoder_cache: the encoder's outputs for this data.
        progress: whether to show a progress bar.

    Returns:
        For each row, in the order of the data, its answers: as drawn, or the best first.

    Raises:
        AudioError: for audio that cannot be used.
        ValueError: for numbers out of range.
    """
    if num_return_sequences < 1:
        raise ValueError(f"num_return_sequences must be at least 1, got {num_return_sequences}")
    if num_beams is None:
        num_beams = 1 if do_sample else num_return_sequences
    if not do_sample and num_beams < num_return_sequences:
        raise ValueError(
            f"{num_return_sequences} answers need as many beams, got num_beams={num_beams}; raise "
            "it, or pass do_sample=True"
        )
    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "do_sample": do_sample,
        "num_beams": num_beams,
        "num_return_sequences": num_return_sequences,
        "return_dict_in_generate": True,
        "output_logits": True,
    }
    if do_sample:
        options |= {"temperature": temperature, "top_p": top_p, "top_k": 0}
    dataset = _dataset(data, processor, encoder_cache)
    done: dict[int, list[Hypothesis]] = {}
    for positions, _, tokens, output in _generated(
        model, processor, dataset, batch_size, device, progress, options
    ):
        scorer = model if hasattr(model, "compute_transition_scores") else model.language_model
        log_probs = scorer.compute_transition_scores(
            tokens.to(output.logits[0].device),
            output.logits,
            output.get("beam_indices"),
            normalize_logits=True,
        ).cpu()
        hypotheses = [
            _hypothesis(processor, ids, scores, model.generation_config.eos_token_id)
            for ids, scores in zip(tokens, log_probs, strict=True)
        ]
        for number, position in enumerate(positions):
            first = number * num_return_sequences
            done[position] = hypotheses[first : first + num_return_sequences]
    return [done[position] for position in range(len(dataset))]


def _hypothesis(
    processor: Any, ids: Tensor, log_probs: Tensor, eos_token_id: int | list[int] | None
) -> Hypothesis:
    """An answer up to its first end-of-sequence token."""
    length = len(ids)
    if eos_token_id is not None:
        ends = torch.isin(ids, torch.as_tensor(eos_token_id)).nonzero().flatten()
        length = int(ends[0]) + 1 if len(ends) else length
    kept = tuple(ids[:length].tolist())
    scores = tuple(log_probs[:length].tolist())
    text = processor.decode(list(kept), skip_special_tokens=True).strip()
    return Hypothesis(text, kept, sum(scores), scores)


def _dataset(data: Data, processor: Any, encoder_cache: EncoderCache | None) -> SpeechTextDataset:
    if isinstance(data, SpeechTextDataset):
        if encoder_cache is not None:
            raise ValueError("a dataset has its own encoder cache; pass it to SpeechTextDataset")
        return data
    return SpeechTextDataset(data, processor, encoder_cache=encoder_cache)


def _generated(
    model: Any,
    processor: Any,
    dataset: SpeechTextDataset,
    batch_size: int,
    device: str | torch.device | None,
    progress: bool,
    options: dict[str, Any],
) -> Iterator[tuple[list[int], list[Example], Tensor, Any]]:
    """Batches of (positions, examples, new tokens on the CPU, what generate() returned)."""
    if batch_size < 1 or options["max_new_tokens"] < 1:
        raise ValueError(
            f"batch_size and max_new_tokens must be at least 1, received {batch_size} and "
            f"{options['max_new_tokens']}"
        )
    if device is not None:
        model.to(device)
    collator = SpeechTextCollator(processor, padding_side="left", training=False)
    order = _longest_first(dataset)
    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    with evaluating(model), torch.inference_mode():
        for positions in _with_progress(batches, progress):
            examples = [dataset[position] for position in positions]
            batch = {key: value.to(model.device) for key, value in collator(examples).items()}
            output = model.generate(**batch, **options)
            sequences = output if isinstance(output, Tensor) else output.sequences
            yield positions, examples, sequences[:, batch["input_ids"].shape[1] :].cpu(), output


def _longest_first(dataset: SpeechTextDataset) -> list[int]:
    """Order by length, the longest first: what does not fit into memory fails at once."""
    if dataset.encoder_cache is not None:
        frames = dataset.encoder_cache.num_frames
        lengths: list[float] = [sum(frames(clip) for clip in row.clips) for row in dataset.rows]
    else:
        lengths = dataset.durations_s()
    return sorted(range(len(lengths)), key=lambda position: -lengths[position])


def _hit_limit(
    tokens: Tensor, eos_token_id: int | list[int] | None, max_new_tokens: int
) -> list[bool]:
    """Tell per row whether max_new_tokens were made and none of them ends the sequence."""
    if eos_token_id is None:
        ended = torch.zeros(len(tokens), dtype=torch.bool)
    else:
        ended = torch.isin(tokens, torch.as_tensor(eos_token_id)).any(dim=1)
    return [bool(tokens.shape[1] >= max_new_tokens and not row) for row in ended]


def _with_progress(batches: list[list[int]], progress: bool) -> Iterator[list[int]]:
    if not progress:
        yield from batches
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(batches, description="transcribing", console=Console(stderr=True))
