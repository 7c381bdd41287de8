"""Measures that need the passes of a step: the gap by layer, and how predictions differ.

See `otreg.experiment.measures` for how they are called and what they return.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from otreg.data.dataset import SpeechTextDataset
from otreg.data.interleave import Interleaving
from otreg.data.segments import Clip, Row, Segment
from otreg.evaluation.divergences import measure_divergences
from otreg.evaluation.layer_gap import measure_layers
from otreg.evaluation.samples import sample_record
from otreg.evaluation.views import views
from otreg.forwards import twin_of
from otreg.model.towers import load_language_model

AUDIO = ("true", "swapped", "none")

Records = dict[str, list[dict[str, Any]]]


def layers_of(
    model: Any,
    processor: Any,
    corpora: Mapping[str, Path],
    *,
    arm: str,
    seed: int,
    batch_size: int,
    caches: Mapping[str, Any],
    language_model: Path,
    trained_on: Sequence[Path],
    layers: Sequence[int],
) -> Records:
    """The gap between the hidden states of speech and transcript at layers.

    Args:
        model, processor, corpora, arm, seed, batch_size, caches, language_model,
            trained_on: as every measure.
        layers: 0 = what enters the language model, k = what leaves its layer k.
    """
    records: Records = {"samples": [], "gap_by_layer": []}
    for corpus, manifest in corpora.items():
        dataset = SpeechTextDataset([manifest], processor, encoder_cache=caches.get(corpus))
        found = views(
            model, processor, dataset, batch_size=batch_size, needs={"text"}, layers=layers
        )
        of = {"arm": arm, "seed": seed, "corpus": corpus}
        ids = [clip.id for clip in dataset.clips() if clip.text]
        for layer, gap in measure_layers(found, layers).items():
            records["gap_by_layer"].append({**of, "layer": layer, **gap.compute()})
            records["samples"] += [
                sample_record(
                    **of,  # type: ignore[arg-type]
                    measure=name,
                    ids=ids,
                    numerator=above.tolist(),
                    denominator=below.tolist(),
                    at={"layer": layer},
                )
                for name, (above, below) in gap.samples().items()
            ]
    return records


def divergences_of(
    model: Any,
    processor: Any,
    corpora: Mapping[str, Path],
    *,
    arm: str,
    seed: int,
    batch_size: int,
    caches: Mapping[str, Any],
    language_model: Path,
    trained_on: Sequence[Path],
    text_words: Sequence[int],
    speech_words: Sequence[int],
    cuts_seed: int = 0,
    audio: Sequence[str] = ("true",),
) -> Records:
    """SALAD's misalignment M and forgetting F on interleaved rows.

    Args:
        model, processor, corpora, arm, seed, batch_size, caches, language_model,
            trained_on: as every measure.
        text_words: fewest and most words of a written span.
        speech_words: fewest and most words of a spoken span.
        cuts_seed: of the cuts.
        audio: which audio the spoken spans have: "true"; "swapped", the same words' places in the
            next row; "none", the spans are hidden from the language model.

    Raises:
        ValueError: another kind of audio.
    """
    unknown = sorted(set(audio) - set(AUDIO))
    if unknown:
        raise ValueError(f"audio must be of {', '.join(AUDIO)}; got {unknown[0]!r}")
    cut = Interleaving(
        (text_words[0], text_words[1]), (speech_words[0], speech_words[1]), cuts_seed
    )
    before = load_language_model(language_model).to(model.device).eval()
    records: Records = {"samples": []}
    for corpus, manifest in corpora.items():
        for kind in audio:
            dataset = SpeechTextDataset([manifest], processor, interleaving=cut)
            if kind == "swapped":
                dataset.rows = _with_swapped_audio(dataset)
            sums: dict[str, list[Tensor]] = {}
            counts: dict[str, list[Tensor]] = {}
            change = _hide_speech if kind == "none" else None
            for view in views(
                model, processor, dataset, batch_size=batch_size, needs={"text"}, change=change
            ):
                twin = twin_of(view.batch, model.config.pad_token_id)
                with torch.no_grad():
                    logits = before(
                        input_ids=twin.input_ids, attention_mask=twin.attention_mask
                    ).logits
                whole = dataclasses.replace(view, reference_text=SimpleNamespace(logits=logits))
                for name, (above, below) in measure_divergences(whole).items():
                    sums.setdefault(name, []).append(above)
                    counts.setdefault(name, []).append(below)
            records["samples"] += [
                sample_record(
                    arm=arm,
                    seed=seed,
                    corpus=corpus,
                    measure=name,
                    ids=[row.id for row in dataset.rows],
                    numerator=torch.cat(sums[name]).tolist(),
                    denominator=torch.cat(counts[name]).tolist(),
                    at={"audio": kind},
                )
                for name in sums
            ]
    return records


def _hide_speech(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The language model sees no spoken span; positions are counted over what is left."""
    hidden = batch["attention_mask"].clone()
    for row, start, length in batch["clips"].tolist():
        hidden[row, start : start + length] = 0
    return {**batch, "attention_mask": hidden}


def _with_swapped_audio(dataset: SpeechTextDataset) -> list[Row]:
    """Every spoken span has the audio of the next row at the same words, as far as there are."""
    rows = []
    for number, row in enumerate(dataset.rows):
        other = dataset.utterances[(number + 1) % len(dataset.rows)]
        assert other.words is not None
        assert other.audio is not None
        place, segments = 0, []
        for segment in row.segments:
            count = len(segment.text.split())
            if isinstance(segment.content, Clip):
                first = min(place, len(other.words) - 1)
                last = min(place + count, len(other.words)) - 1
                offset = other.start_s or 0.0
                clip = dataclasses.replace(
                    segment.content,
                    id=f"{segment.content.id}<{other.id}",
                    audio=other.audio,
                    start_s=offset + other.words[first].start_s,
                    end_s=offset + other.words[max(first, last)].end_s,
                )
                segment = Segment("audio", clip, segment.role)
            segments.append(segment)
            place += count
        rows.append(dataclasses.replace(row, segments=tuple(segments)))
    return rows
