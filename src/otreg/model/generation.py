"""Speech to text with a model: batched greedy decoding, in the order of the utterances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from otreg.data.collate import SpeechTextCollator
from otreg.data.dataset import SpeechTextDataset
from otreg.data.manifest import Utterance
from otreg.model.evaluation_mode import evaluating

if TYPE_CHECKING:
    from otreg.data.encoder_cache import EncoderCache


@dataclass(frozen=True)
class Transcription:
    """What a model made of one utterance.

    Args:
        id: the utterance's id.
        reference: its transcript, "" where unknown.
        hypothesis: the decoded text.
        hit_limit: whether decoding stopped at max_new_tokens, not at an end-of-sequence token.

    """

    id: str
    reference: str
    hypothesis: str
    hit_limit: bool


def transcribe(
    model: Any,
    processor: Any,
    data: SpeechTextDataset | Sequence[Utterance] | str | Path | Sequence[str | Path],
    *,
    batch_size: int = 16,
    max_new_tokens: int = 200,
    device: str | torch.device | None = None,
    encoder_cache: EncoderCache | None = None,
    progress: bool = False,
) -> list[Transcription]:
    """Decode greedily; utterances of like length share a batch, so that little is padding.

    Args:
        model: `SpeechLMForConditionalGeneration`; put into evaluation mode meanwhile.
        processor: its `SpeechLMProcessor`.
        data: a dataset, or utterances or manifests to make one of.
        batch_size: utterances decoded together.
        max_new_tokens: most tokens of a transcript.
        device: where to decode; the model is moved there and stays. None = where it is.
        encoder_cache: the encoder's outputs for this data; None = encode the audio.
        progress: whether to show a progress bar on the terminal.

    Returns:
        One transcription per utterance, in the order of the data.

    Raises:
        AudioError: for audio that cannot be used.
        ValueError: for numbers out of range, or a cache beside a dataset, which has its own.

    """
    if batch_size < 1 or max_new_tokens < 1:
        raise ValueError(
            f"batch_size and max_new_tokens must be at least 1, received {batch_size} and "
            f"{max_new_tokens}"
        )
    if isinstance(data, SpeechTextDataset):
        if encoder_cache is not None:
            raise ValueError("a dataset has its own encoder cache; pass it to SpeechTextDataset")
        dataset = data
    else:
        dataset = SpeechTextDataset(data, processor, encoder_cache=encoder_cache)
    if device is not None:
        model.to(device)
    collator = SpeechTextCollator(processor, padding_side="left", training=False)
    order = _longest_first(dataset)
    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    done: dict[int, Transcription] = {}
    with evaluating(model), torch.inference_mode():
        for positions in _with_progress(batches, progress):
            examples = [dataset[position] for position in positions]
            batch = {key: value.to(model.device) for key, value in collator(examples).items()}
            sequences = model.generate(
                **batch, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1
            )
            tokens = sequences[:, batch["input_ids"].shape[1] :].cpu()
            texts = processor.batch_decode(tokens, skip_special_tokens=True)
            limits = _hit_limit(tokens, model.generation_config.eos_token_id, max_new_tokens)
            for position, example, text, limit in zip(
                positions, examples, texts, limits, strict=True
            ):
                done[position] = Transcription(example["id"], example["text"], text.strip(), limit)
    return [done[position] for position in range(len(dataset))]


def _longest_first(dataset: SpeechTextDataset) -> list[int]:
    """Order by length, the longest first: what does not fit into memory fails at once."""
    if dataset.encoder_cache is not None:
        frames = dataset.encoder_cache.num_frames
        lengths: list[float] = [sum(frames(clip) for clip in row.clips) for row in dataset.rows]
    else:
        lengths = dataset.durations_s()
    return sorted(range(len(lengths)), key=lambda position: -lengths[position])


def _hit_limit(
    tokens: torch.Tensor, eos_token_id: int | list[int] | None, max_new_tokens: int
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
