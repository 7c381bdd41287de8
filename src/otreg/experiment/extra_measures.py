"""Measures of experiments: the gap by layer, how predictions differ, and what was chosen.

See `otreg.experiment.measure_kinds` for how they are called and what they return.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from otreg.data.dataset import SpeechTextDataset
from otreg.data.interleave import Interleaving
from otreg.data.manifest import Utterance, read_manifest
from otreg.data.segments import Clip, Row, Segment
from otreg.evaluation.divergences import measure_divergences
from otreg.evaluation.layer_gap import measure_layers
from otreg.evaluation.samples import sample_record
from otreg.evaluation.views import Change, views
from otreg.forwards import twin_of
from otreg.model.towers import load_language_model

AUDIO = ("true", "swapped", "none")

Records = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Measured:
    """What a measure is of.

    Attributes:
        model: the trained model.
        processor: its processor.
        corpora: manifests by name.
        arm: the arm's name.
        seed: the run's seed.
        batch_size: rows at a time.
        caches: encoder caches by the corpora's names; empty where there are none.
        language_model: folder of the language model before training.
        trained_on: the manifests that the arm was trained on.
    """

    model: Any
    processor: Any
    corpora: Mapping[str, Path]
    arm: str
    seed: int
    batch_size: int
    caches: Mapping[str, Any]
    language_model: Path
    trained_on: Sequence[Path]

    def sample(
        self, corpus: str, measure: str, ids: Sequence[str], **values: Any
    ) -> dict[str, Any]:
        """A record of `samples`, see `otreg.evaluation.samples.sample_record`."""
        return sample_record(
            arm=self.arm, seed=self.seed, corpus=corpus, measure=measure, ids=ids, **values
        )


def layers_of(of: Measured, *, layers: Sequence[int]) -> Records:
    """The gap between the hidden states of speech and transcript at layers.

    Args:
        of: the model and the corpora.
        layers: 0 = what enters the language model, k = what leaves its layer k.
    """
    records: Records = {"samples": [], "gap_by_layer": []}
    for corpus, manifest in of.corpora.items():
        cache = of.caches.get(corpus)
        dataset = SpeechTextDataset([manifest], of.processor, encoder_cache=cache)
        found = views(
            of.model,
            of.processor,
            dataset,
            batch_size=of.batch_size,
            needs={"text"},
            layers=layers,
        )
        ids = [clip.id for clip in dataset.clips() if clip.text]
        for layer, gap in measure_layers(found, layers).items():
            place = {"arm": of.arm, "seed": of.seed, "corpus": corpus, "layer": layer}
            records["gap_by_layer"].append(place | gap.compute())
            records["samples"] += [
                of.sample(
                    corpus,
                    name,
                    ids,
                    numerator=above.tolist(),
                    denominator=below.tolist(),
                    at={"layer": layer},
                )
                for name, (above, below) in gap.samples().items()
            ]
    return records


def divergences_of(
    of: Measured,
    *,
    text_words: Sequence[int],
    speech_words: Sequence[int],
    cuts_seed: int = 0,
    audio: Sequence[str] = ("true",),
) -> Records:
    """SALAD's misalignment M and forgetting F on interleaved rows.

    Args:
        of: the model and the corpora, whose rows have words.
        text_words: fewest and most words of a written span.
        speech_words: fewest and most words of a spoken span.
        cuts_seed: of the cuts.
        audio: which audio the spoken spans have: "true"; "swapped", the same words' places in
            another row, drawn from all corpora; "none", the spans are hidden from the language
            model.

    Raises:
        ValueError: another kind of audio.
    """
    unknown = sorted(set(audio) - set(AUDIO))
    if unknown:
        raise ValueError(f"audio must be of {', '.join(AUDIO)}; got {unknown[0]!r}")
    cut = Interleaving(
        (text_words[0], text_words[1]), (speech_words[0], speech_words[1]), cuts_seed
    )
    before = load_language_model(of.language_model).to(of.model.device).eval()
    records: Records = {"samples": []}
    utterances = {corpus: read_manifest(path) for corpus, path in of.corpora.items()}
    others = partners(utterances, cuts_seed)
    for corpus, spoken in utterances.items():
        for kind in audio:
            dataset = SpeechTextDataset(spoken, of.processor, interleaving=cut)
            if kind == "swapped":
                dataset.rows = [
                    with_audio_of(other, row)
                    for other, row in zip(others[corpus], dataset.rows, strict=True)
                ]
            change = _hide_speech if kind == "none" else None
            found = _divergences(of, dataset, before, change)
            records["samples"] += [
                of.sample(
                    corpus,
                    name,
                    [row.id for row in dataset.rows],
                    numerator=torch.cat([above for above, _ in parts]).tolist(),
                    denominator=torch.cat([below for _, below in parts]).tolist(),
                    at={"audio": kind},
                )
                for name, parts in found.items()
            ]
    return records


def topic_share(of: Measured, *, topic: str) -> Records:
    """The share of a topic among the rows that were chosen for an arm's training.

    Args:
        of: what was trained; its one corpus names the record.
        topic: the attribute "topic" of the rows that count.
    """
    rows = [row for path in of.trained_on for row in read_manifest(path)]
    chosen = [row for row in rows if "select" in (row.custom or {})]
    if not chosen:
        return {"samples": []}
    found = [float((row.attributes or {}).get("topic") == topic) for row in chosen]
    (corpus,) = of.corpora
    ids = [row.id for row in chosen]
    return {"samples": [of.sample(corpus, "topic_share", ids, numerator=found)]}


def _divergences(
    of: Measured, dataset: SpeechTextDataset, before: Any, change: Change | None
) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Measure -> its sums and positions, batch by batch."""
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for view in views(
        of.model, of.processor, dataset, batch_size=of.batch_size, needs={"text"}, change=change
    ):
        twin = twin_of(view.batch, of.model.config.pad_token_id)
        with torch.no_grad():
            logits = before(input_ids=twin.input_ids, attention_mask=twin.attention_mask).logits
        whole = dataclasses.replace(view, reference_text=SimpleNamespace(logits=logits))
        for name, sample in measure_divergences(whole).items():
            found.setdefault(name, []).append(sample)
    return found


def _hide_speech(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The language model sees no spoken span; positions are counted over what is left."""
    hidden = batch["attention_mask"].clone()
    for row, start, length in batch["clips"].tolist():
        hidden[row, start : start + length] = 0
    return {**batch, "attention_mask": hidden}


def partners(corpora: Mapping[str, Sequence[Utterance]], seed: int) -> dict[str, list[Utterance]]:
    """Another utterance for each, drawn from all corpora: the next in one shuffled circle of them.

    A partner of the same corpus alone would tell what its utterances share, such as their topic.
    """
    circle = [(corpus, i) for corpus, found in corpora.items() for i in range(len(found))]
    random.Random(seed).shuffle(circle)
    following = dict(zip(circle, [*circle[1:], *circle[:1]], strict=True))
    chosen: dict[str, list[Utterance]] = {}
    for corpus, found in corpora.items():
        places = [following[corpus, i] for i in range(len(found))]
        chosen[corpus] = [corpora[other][place] for other, place in places]
    return chosen


def with_audio_of(other: Utterance, row: Row) -> Row:
    """The row, every spoken span with another's audio at the same words, as far as there are."""
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
    return dataclasses.replace(row, segments=tuple(segments))
