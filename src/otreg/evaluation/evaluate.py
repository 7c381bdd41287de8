"""A model on named corpora: decode, count errors, measure the gap, keep examples."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from otreg.data.dataset import SpeechTextDataset, as_utterances
from otreg.data.manifest import Utterance
from otreg.data.segments import Clip, row_of
from otreg.evaluation.alignments import Objective, align, clips_with_transcript, speech_batches
from otreg.evaluation.modality_gap import ModalityGap
from otreg.evaluation.samples import sample_record
from otreg.evaluation.wer import (
    BASIC_NORMALIZER,
    Normalizer,
    check_references,
    error_rates_by_language,
    errors_in_order,
)
from otreg.forwards import port_of
from otreg.model.embeddings import embedding_rows
from otreg.model.generation import transcribe

if TYPE_CHECKING:
    from otreg.data.encoder_cache import EncoderCache

logger = logging.getLogger(__name__)

Corpora = Mapping[str, "Sequence[Utterance] | str | Path"]


def evaluate_model(
    model: Any,
    processor: Any,
    corpora: Corpora,
    *,
    arm: str,
    seed: int,
    in_domain: Collection[str] = (),
    batch_size: int = 16,
    max_new_tokens: int = 200,
    device: str | torch.device | None = None,
    encoder_cache: EncoderCache | Mapping[str, EncoderCache] | None = None,
    normalizer: Normalizer = BASIC_NORMALIZER,
    max_gap_utterances: int = 500,
    num_transcripts: int = 4,
    num_alignments: int = 1,
    objective: Objective | None = None,
    sample_measures: Collection[str] = ("wer",),
    progress: bool = False,
) -> dict[str, Any]:
    """Evaluate one model and return its part of results.json.

    Gap and plans are of transcribed clips: rows without any are decoded, and left out of those.
    Error rates are of all rows: what is decoded where the reference has no word is an insertion.

    Args:
        model: a `SpeechLMForConditionalGeneration`.
        processor: its `SpeechLMProcessor`.
        corpora: name -> manifest or utterances.
        arm: name of what is compared, for instance the training objective.
        seed: the run's seed.
        in_domain: the corpora, among those named, that are of the training data's kind.
        batch_size: utterances per batch.
        max_new_tokens: most tokens of a transcript.
        device: where to run; the model is moved there and stays. None = where it is.
        encoder_cache: the encoder's outputs, one cache for all corpora or one per name.
        normalizer: brings transcripts to the form that is compared.
        max_gap_utterances: the gap is measured on at most this many rows of a corpus, evenly
            spaced among those with a transcribed clip; 0 = do not measure it.
        num_transcripts: examples kept of each corpus, evenly spaced.
        num_alignments: rows of each corpus whose transport plans and distances are kept, the first
            of the examples; where some rows have no transcribed clip, of examples among the others.
        objective: whose plan is kept; None = the paper's transport problem, that is similarity
            alone with the pad anchor, so that no position prior lends a model its diagonal.
        sample_measures: the measures kept utterance by utterance, for gates and paired intervals:
            "wer" and those of `ModalityGap.samples`.
        progress: whether to show progress bars on the terminal.

    Returns:
        rows, gap, samples, transcripts, alignments (lists of records) and normaliser, as described in
        docs/evaluation.md. `otreg.evaluation.results.merge_results` joins those of several models;
        `otreg.evaluation.results.environment` adds versions and machine.

    Raises:
        ValueError: no corpora, names in in_domain or encoder_cache that are none of them, numbers
            out of range, or a corpus without a reference word in one of its languages: all before
            anything is decoded.
        AudioError: for audio that cannot be used.
    """
    _check_names(corpora, in_domain, encoder_cache)
    if min(max_gap_utterances, num_transcripts, num_alignments) < 0:
        raise ValueError(
            "expected max_gap_utterances, num_transcripts and num_alignments of at least 0, "
            f"received {max_gap_utterances}, {num_transcripts} and {num_alignments}"
        )
    read = {corpus: as_utterances(data) for corpus, data in corpora.items()}
    for corpus, utterances in read.items():
        references = [row_of(utterance).answer for utterance in utterances]
        languages = [utterance.language for utterance in utterances]
        try:
            check_references(references, languages, normalizer=normalizer)
        except ValueError as error:
            raise ValueError(f"corpus {corpus}: {error}") from error
    if device is not None:
        model.to(device)
    lists = ("rows", "gap", "samples", "transcripts", "alignments")
    results: dict[str, Any] = {name: [] for name in lists}
    results["normaliser"] = {"name": normalizer.name, "version": normalizer.version}
    for corpus, utterances in read.items():
        cache = encoder_cache[corpus] if isinstance(encoder_cache, Mapping) else encoder_cache
        dataset = SpeechTextDataset(utterances, processor, encoder_cache=cache)
        logger.info("evaluating %s, seed %d, on %s (%d)", arm, seed, corpus, len(utterances))
        done = transcribe(
            model,
            processor,
            dataset,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            progress=progress,
        )
        of: dict[str, Any] = {"arm": arm, "seed": seed, "corpus": corpus}
        languages = [utterance.language for utterance in utterances]
        rates = error_rates_by_language(
            [result.reference for result in done],
            [result.hypothesis for result in done],
            languages,
            normalizer=normalizer,
            hit_limit=[result.hit_limit for result in done],
        )
        domain = "in" if corpus in in_domain else "out"
        for language, rate in rates.items():
            results["rows"].append({**of, "language": language, "domain": domain, **rate.as_dict()})
        ids = [utterance.id for utterance in utterances]
        samples: dict[str, tuple[list[str], Any, Any]]  # ids, numerators, denominators
        samples = {"wer": (ids, *errors_in_order(rates, languages))}
        spoken = [row for row in range(len(dataset)) if clips_with_transcript(dataset, [row])]
        if max_gap_utterances and spoken:
            chosen = [spoken[index] for index in _spaced(len(spoken), max_gap_utterances)]
            clips = clips_with_transcript(dataset, chosen)
            gap = _measured_gap(model, processor, dataset, clips, batch_size)
            results["gap"].append(of | gap.compute())
            kept_ids = [clip.id for clip in clips]
            samples |= {name: (kept_ids, *pair) for name, pair in gap.samples().items()}
        for measure in [name for name in sample_measures if name in samples]:
            measured, above, below = samples[measure]
            record = sample_record(
                **of, measure=measure, ids=measured, numerator=above, denominator=below
            )
            results["samples"].append(record)
        num_examples = max(num_transcripts, num_alignments)
        for position in _spaced(len(utterances), num_examples)[:num_transcripts]:
            utterance, result = utterances[position], done[position]
            results["transcripts"].append(
                {
                    **of,
                    "language": utterance.language,
                    "id": utterance.id,
                    "reference": result.reference,
                    "hypothesis": result.hypothesis,
                }
            )
        shown = [spoken[index] for index in _spaced(len(spoken), num_examples)][:num_alignments]
        kept = align(model, processor, dataset, shown, objective=objective)
        results["alignments"] += [of | record for record in kept]
    return results


def measure_gap(
    model: Any,
    processor: Any,
    data: SpeechTextDataset | Sequence[Utterance] | str | Path,
    *,
    positions: Sequence[int] | None = None,
    batch_size: int = 16,
    encoder_cache: EncoderCache | None = None,
) -> dict[str, float]:
    """The gap measures of a model on a corpus, see `otreg.evaluation.measures`.

    Args:
        model: a `SpeechLMForConditionalGeneration`; put into evaluation mode meanwhile.
        processor: its `SpeechLMProcessor`.
        data: utterances with transcripts, a manifest, or a dataset of them.
        positions: which rows; None = all. Their transcribed clips are measured.
        batch_size: clips per batch.
        encoder_cache: as for `SpeechTextDataset`, where data is none.

    Returns:
        Measure -> value, and the counts behind them.

    Raises:
        ValueError: no clip among these rows has a transcript.
    """
    if not isinstance(data, SpeechTextDataset):
        data = SpeechTextDataset(as_utterances(data), processor, encoder_cache=encoder_cache)
    clips = clips_with_transcript(data, range(len(data)) if positions is None else positions)
    if not clips:
        raise ValueError(
            "expected a clip with a transcript among the rows, received none; the gap is measured "
            "between speech and what is said in it"
        )
    return _measured_gap(model, processor, data, clips, batch_size).compute()


def _measured_gap(
    model: Any,
    processor: Any,
    data: SpeechTextDataset,
    clips: Sequence[Clip],
    batch_size: int,
) -> ModalityGap:
    """The gap over transcribed clips of a dataset."""
    table = embedding_rows(model.get_input_embeddings()).detach()
    pad = port_of(model, processor).vocabulary().pad_token_id
    gap = ModalityGap(table, pad_token_id=pad)
    for _, batch, features in speech_batches(model, processor, data, clips, batch_size):
        speech, mask = features.speech_embeds, features.speech_mask
        gap.update(speech, mask, batch["text_ids"], batch["text_mask"])
    return gap


def _spaced(total: int, count: int) -> list[int]:
    """Up to count positions, evenly spaced from the first on."""
    count = min(total, count)
    return [index * total // count for index in range(count)]


def _check_names(
    corpora: Corpora,
    in_domain: Collection[str],
    encoder_cache: EncoderCache | Mapping[str, EncoderCache] | None,
) -> None:
    if not corpora:
        raise ValueError("expected at least one corpus to evaluate on, received none")
    if isinstance(in_domain, str):
        raise ValueError(f"expected a collection of names in in_domain, received {in_domain!r}")
    known = ", ".join(corpora)
    unknown = sorted(set(in_domain) - set(corpora))
    if unknown:
        raise ValueError(
            f"expected in_domain to name corpora ({known}), received {', '.join(unknown)}"
        )
    if isinstance(encoder_cache, Mapping) and (missing := set(corpora) - set(encoder_cache)):
        raise ValueError(
            f"expected an encoder cache for every corpus, received none for "
            f"{', '.join(sorted(missing))}; pass None to encode the audio"
        )
