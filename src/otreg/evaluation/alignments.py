"""Where speech and transcript match: the transport plan and the distances of single clips."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from otreg.data.collate import SpeechTextCollator
from otreg.data.dataset import SpeechTextDataset, as_utterances
from otreg.data.manifest import Utterance
from otreg.data.segments import Clip
from otreg.evaluation.vectors import unit
from otreg.forwards import port_of
from otreg.model.embeddings import embedding_rows
from otreg.model.evaluation_mode import evaluating
from otreg.objectives.base import AlignmentOutput
from otreg.objectives.otreg import OTReg
from otreg.pair import SpeechTextPair

if TYPE_CHECKING:
    from otreg.data.encoder_cache import EncoderCache

Objective = Callable[[SpeechTextPair], AlignmentOutput]


def align(
    model: Any,
    processor: Any,
    data: SpeechTextDataset | Sequence[Utterance] | str | Path,
    positions: Sequence[int] | None = None,
    *,
    objective: Objective | None = None,
    batch_size: int = 16,
    encoder_cache: EncoderCache | None = None,
) -> list[dict[str, Any]]:
    """Transport plan and distances between speech and transcript, clip by clip.

    Clips without a transcript are left out, and with them rows of text alone. Where the model
    merges frames, a merged frame's row stands for each frame that it was made of, so that time
    stays uniform.

    Args:
        model: a `SpeechLMForConditionalGeneration`; put into evaluation mode meanwhile.
        processor: its `SpeechLMProcessor`.
        data: utterances with transcripts, a manifest, or a dataset of them.
        positions: which rows; None = all.
        objective: whose plan is taken; None = the paper's transport problem.
        batch_size: clips per batch.
        encoder_cache: as for `SpeechTextDataset`, where data is none.

    Returns:
        Records with id (the clip's, which for a row's own audio is the row's), language, text,
        frame_s (seconds per frame), targets (labels of the plan's columns), plan (frames, targets),
        tokens, distances (frames, tokens) of 1 - cos, converged, objective (its options, as text).
        Matrices are lists of rows, to four significant digits.

    Raises:
        ValueError: an objective without a plan, such as CTC.
    """
    if not isinstance(data, SpeechTextDataset):
        data = SpeechTextDataset(as_utterances(data), processor, encoder_cache=encoder_cache)
    solve = objective or OTReg.paper(plan_gradient="stop", sparsity_weight=0.0)
    words = port_of(model, processor).vocabulary()
    table = embedding_rows(model.get_input_embeddings()).detach()
    pad = None if words.pad_token_id is None else table[words.pad_token_id]
    records: list[dict[str, Any]] = []
    clips = clips_with_transcript(data, range(len(data)) if positions is None else positions)
    for examples, batch, features in speech_batches(model, processor, data, clips, batch_size):
        speech = features.speech_embeds.to(table.device)
        text = table[batch["text_ids"]]
        pair = SpeechTextPair(
            speech,
            text,
            features.speech_mask,
            batch["text_mask"],
            token_ids=batch["text_ids"],
            pad_embedding=pad,
            embedding_table=table,
        )
        with torch.no_grad():
            output = solve(pair)
        if output.plan is None or output.targets is None:
            raise ValueError(
                "expected an objective with a transport plan, received one without; use OTReg"
            )
        unit_speech, unit_text = unit(speech), unit(text)
        distances = 1 - unit_speech @ unit_text.transpose(1, 2)  # (batch, frames, tokens)
        for row, example in enumerate(examples):
            frames = _source_frames(features, row)
            ids = batch["text_ids"][row][batch["text_mask"][row]]
            labels = token_labels(processor.tokenizer, ids.tolist())
            real = output.targets.mask[row]
            records.append(
                {
                    "id": example["id"],
                    "language": example["language"],
                    "text": example["text"],
                    "objective": repr(solve),
                    "frame_s": example["duration_s"] / len(frames),
                    "targets": [
                        labels[index] if index >= 0 else "(pad)"
                        for index in output.targets.token_index[row][real].tolist()
                    ],
                    "plan": _rounded(output.plan[row][frames][:, real]),
                    "tokens": labels,
                    "distances": _rounded(distances[row][frames][:, : len(labels)]),
                    "converged": None
                    if output.converged is None
                    else bool(output.converged[row].item()),
                }
            )
    return records


def token_labels(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text, a leading space shown as "▁".

    A token that ends within a character shows "·"; the token that completes it shows the character.
    """
    labels: list[str] = []
    before = ""
    for count in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:count], skip_special_tokens=False)
        whole = text.rstrip("\ufffd")
        added = whole[len(before) :] if whole.startswith(before) else whole
        labels.append(added.replace(" ", "▁").replace("\n", "↵") or "·")
        before = whole
    return labels


def clips_with_transcript(dataset: SpeechTextDataset, positions: Iterable[int]) -> list[Clip]:
    """The clips with a transcript of some rows, in order; one that stands twice in a row once."""
    found: list[Clip] = []
    for position in positions:
        found += dict.fromkeys(clip for clip in dataset.rows[position].clips if clip.text.strip())
    return found


def speech_batches(
    model: Any,
    processor: Any,
    dataset: SpeechTextDataset,
    clips: Sequence[Clip],
    batch_size: int,
) -> Iterator[tuple[list[Any], dict[str, torch.Tensor], Any]]:
    """Batches of (examples, batch on the model's device, speech features) without gradient.

    Each transcribed clip is an example of its own, so that all three have the same rows.
    """
    collator, port = SpeechTextCollator(processor), port_of(model, processor)
    for first in range(0, len(clips), batch_size):
        examples = [dataset.clip_example(clip) for clip in clips[first : first + batch_size]]
        batch = port.completed(collator(examples))
        batch = {name: value.to(model.device) for name, value in batch.items()}
        with evaluating(model), torch.no_grad():
            features = port.features(batch)
        yield examples, batch, features


def _source_frames(features: Any, row: int) -> torch.Tensor:
    """For each frame before merging, the row of speech_embeds that it went into."""
    if features.placeholder_keep is None:
        return torch.arange(int(features.speech_mask[row].sum()))
    keep = features.placeholder_keep[row][: int(features.num_placeholders[row])]
    return (keep.cumsum(0) - 1).cpu()


def _rounded(matrix: torch.Tensor) -> list[list[float]]:
    return [[float(f"{value:.4g}") for value in row] for row in matrix.float().tolist()]
