"""A model on named corpora: decode, count errors, measure the gap, keep examples."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from otreg.data.collate import SpeechTextCollator
from otreg.data.dataset import SpeechTextDataset, as_utterances
from otreg.data.manifest import Utterance
from otreg.evaluation.modality_gap import ModalityGap
from otreg.evaluation.wer import BASIC_NORMALIZER, Normalizer, error_rates_by_language
from otreg.model.evaluation_mode import evaluating
from otreg.model.generation import transcribe
from otreg.objectives.base import AlignmentOutput
from otreg.objectives.otreg import OTReg
from otreg.pair import SpeechTextPair

if TYPE_CHECKING:
    from otreg.data.encoder_cache import EncoderCache

logger = logging.getLogger(__name__)

Corpora = Mapping[str, "Sequence[Utterance] | str | Path"]
Objective = Callable[[SpeechTextPair], AlignmentOutput]


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
    progress: bool = False,
) -> dict[str, Any]:
    """Evaluate one model and return its part of results.json.

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
        max_gap_utterances: the gap is measured on at most this many utterances of a corpus, evenly
            spaced; 0 = do not measure it.
        num_transcripts: examples kept of each corpus, evenly spaced.
        num_alignments: utterances of each corpus whose transport plan and distances are kept, the
            first of the examples.
        objective: whose plan is kept; None = the paper's transport problem, that is similarity
            alone with the pad anchor, so that no position prior lends a model its diagonal.
        progress: whether to show progress bars on the terminal.

    Returns:
        rows, gap, transcripts, alignments (lists of records) and normaliser, as described in
        docs/evaluation.md. `otreg.evaluation.results.merge_results` joins those of several models;
        `otreg.evaluation.results.environment` adds versions and machine.

    Raises:
        ValueError: no corpora, names in in_domain or encoder_cache that are none of them, or
            numbers out of range.
        AudioError: for audio that cannot be used.
    """
    _check_names(corpora, in_domain, encoder_cache)
    if min(max_gap_utterances, num_transcripts, num_alignments) < 0:
        raise ValueError(
            "expected max_gap_utterances, num_transcripts and num_alignments of at least 0, "
            f"received {max_gap_utterances}, {num_transcripts} and {num_alignments}"
        )
    if device is not None:
        model.to(device)
    results: dict[str, Any] = {"rows": [], "gap": [], "transcripts": [], "alignments": []}
    results["normaliser"] = {"name": normalizer.name, "version": normalizer.version}
    for corpus, data in corpora.items():
        cache = encoder_cache[corpus] if isinstance(encoder_cache, Mapping) else encoder_cache
        utterances = as_utterances(data)
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
        of = {"arm": arm, "seed": seed, "corpus": corpus}
        rates = error_rates_by_language(
            [result.reference for result in done],
            [result.hypothesis for result in done],
            [utterance.language for utterance in utterances],
            normalizer=normalizer,
            hit_limit=[result.hit_limit for result in done],
        )
        domain = "in" if corpus in in_domain else "out"
        for language, rate in rates.items():
            results["rows"].append({**of, "language": language, "domain": domain, **rate.as_dict()})
        if max_gap_utterances:
            chosen = _spaced(len(utterances), max_gap_utterances)
            measures = measure_gap(
                model, processor, dataset, positions=chosen, batch_size=batch_size
            )
            results["gap"].append(of | measures)
        examples = _spaced(len(utterances), max(num_transcripts, num_alignments))
        for position in examples[:num_transcripts]:
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
        kept = align(model, processor, dataset, examples[:num_alignments], objective=objective)
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
        positions: which utterances; None = all.
        batch_size: utterances per batch.
        encoder_cache: as for `SpeechTextDataset`, where data is none.

    Returns:
        Measure -> value, and the counts behind them.
    """
    if not isinstance(data, SpeechTextDataset):
        data = SpeechTextDataset(as_utterances(data), processor, encoder_cache=encoder_cache)
    table = model.embedding_table().detach()
    pad = model.config.pad_token_id
    known_pad = pad if pad is not None and 0 <= pad < len(table) else None
    gap = ModalityGap(table, pad_token_id=known_pad)
    chosen = range(len(data)) if positions is None else positions
    for _, batch, features in _speech(model, processor, data, chosen, batch_size):
        said = batch["text_mask"].any(1)  # (clips,) those with a transcript
        speech, mask = features.speech_embeds[said], features.speech_mask[said]
        gap.update(speech, mask, batch["text_ids"][said], batch["text_mask"][said])
    return gap.compute()


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
    """Transport plan and distances between speech and transcript, utterance by utterance.

    Where the model merges frames, a merged frame's row stands for each frame that it was made of,
    so that time stays uniform.

    Args:
        model: a `SpeechLMForConditionalGeneration`; put into evaluation mode meanwhile.
        processor: its `SpeechLMProcessor`.
        data: utterances with transcripts, a manifest, or a dataset of them.
        positions: which utterances; None = all.
        objective: whose plan is taken; None = the paper's transport problem.
        batch_size: utterances per batch.
        encoder_cache: as for `SpeechTextDataset`, where data is none.

    Returns:
        Records with id, language, text, frame_s (seconds per frame), targets (labels of the plan's
        columns), plan (frames, targets), tokens, distances (frames, tokens) of 1 - cos, converged,
        objective (its options, as text). Matrices are lists of rows, to four significant digits.

    Raises:
        ValueError: an objective without a plan, such as CTC.
    """
    if not isinstance(data, SpeechTextDataset):
        data = SpeechTextDataset(as_utterances(data), processor, encoder_cache=encoder_cache)
    solve = objective or OTReg.paper(plan_gradient="stop", sparsity_weight=0.0)
    table = model.embedding_table().detach()
    records: list[dict[str, Any]] = []
    chosen = range(len(data)) if positions is None else positions
    for examples, batch, features in _speech(model, processor, data, chosen, batch_size):
        speech = features.speech_embeds.to(table.device)
        text = table[batch["text_ids"]]
        pair = SpeechTextPair(
            speech,
            text,
            features.speech_mask,
            batch["text_mask"],
            token_ids=batch["text_ids"],
            pad_embedding=model.pad_embedding().detach(),
            embedding_table=table,
        )
        with torch.no_grad():
            output = solve(pair)
        if output.plan is None or output.targets is None:
            raise ValueError(
                "expected an objective with a transport plan, received one without; use OTReg"
            )
        unit_speech, unit_text = _unit(speech), _unit(text)
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


def _speech(
    model: Any,
    processor: Any,
    dataset: SpeechTextDataset,
    positions: Sequence[int],
    batch_size: int,
) -> Iterator[tuple[list[Any], dict[str, torch.Tensor], Any]]:
    """Batches of (examples, batch on the model's device, speech features) without gradient."""
    collator = SpeechTextCollator(processor)
    for first in range(0, len(positions), batch_size):
        examples = [dataset[position] for position in positions[first : first + batch_size]]
        batch = {name: value.to(model.device) for name, value in collator(examples).items()}
        names = ("input_features", "input_features_mask", "encoder_hidden_states", "encoder_mask")
        audio = {name: batch[name] for name in names if name in batch}
        with evaluating(model), torch.no_grad():
            features = model.get_audio_features(**audio)
        yield examples, batch, features


def _source_frames(features: Any, row: int) -> torch.Tensor:
    """For each frame before merging, the row of speech_embeds that it went into."""
    if features.placeholder_keep is None:
        return torch.arange(int(features.speech_mask[row].sum()))
    keep = features.placeholder_keep[row][: int(features.num_placeholders[row])]
    return (keep.cumsum(0) - 1).cpu()


def _spaced(total: int, count: int) -> list[int]:
    """Up to count positions, evenly spaced from the first on."""
    count = min(total, count)
    return [index * total // count for index in range(count)]


def _unit(x: torch.Tensor) -> torch.Tensor:
    x = x.float()
    return x / x.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def _rounded(matrix: torch.Tensor) -> list[list[float]]:
    return [[float(f"{value:.4g}") for value in row] for row in matrix.float().tolist()]


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
