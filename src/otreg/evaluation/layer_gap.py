"""The gap measures that compare vectors with vectors, and so hold at any layer of a model."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from otreg.evaluation.measures import MEASURES
from otreg.evaluation.retrieval import candidates, reciprocal_ranks
from otreg.evaluation.vectors import unit

Sample = tuple[Tensor, Tensor]  # (utterances,) numerators, (utterances,) denominators


class LayerGap:
    """Accumulates measures between the vectors of speech and those of its transcript.

    At the input layer the vectors are speech embeddings and rows of the embedding table; at layer k
    they are the language model's hidden states of the speech and, from a pass over the transcript
    in the speech's place, of the text. The whole corpus is one population. Nothing carries a
    gradient. Padding, whatever it holds, changes nothing.

    Args:
        max_retrieval: retrieval ranks among the transcripts of at most this many utterances, the
            first ones.

    Example:
        >>> gap, mask = LayerGap(), torch.ones(2, 1, dtype=torch.bool)
        >>> hidden = torch.eye(2)[:, None]
        >>> gap.update(hidden, mask, hidden, mask)
        >>> gap.compute()["retrieval_pooled_mrr"]
        1.0
    """

    def __init__(self, *, max_retrieval: int = 500) -> None:
        self.max_retrieval = max_retrieval
        self._samples: dict[str, list[Sample]] = {}
        self._sums: dict[str, float] = {}
        self._vectors: dict[str, Tensor] = {}
        self._keys: list[Hashable] = []
        self._pooled: list[tuple[Tensor, Tensor]] = []  # mean frame and mean token, (dim,) each

    @torch.no_grad()
    def update(
        self,
        speech: Tensor,
        speech_mask: Tensor,
        text: Tensor,
        text_mask: Tensor,
        keys: Sequence[Hashable] | None = None,
    ) -> None:
        """Add one batch.

        Args:
            speech: (batch, frames, dim).
            speech_mask: (batch, frames) bool, True = real frame.
            text: (batch, tokens, dim).
            text_mask: (batch, tokens) bool, True = real token.
            keys: what makes two transcripts the same in retrieval, such as their token ids; None =
                all differ.

        Raises:
            ValueError: shapes or dtypes that do not fit, an utterance without a real frame or
                token, or values that are not finite at real positions.
        """
        speech = _real("speech", speech, speech_mask, "frame")
        text = _real("text", text, text_mask, "token").to(speech.device)
        if speech.shape[0] != text.shape[0] or speech.shape[2] != text.shape[2]:
            raise ValueError(
                "expected speech and text of the same utterances and width, received "
                f"{tuple(speech.shape)} and {tuple(text.shape)}"
            )
        speech_mask, text_mask = speech_mask.to(speech.device), text_mask.to(speech.device)
        frames, tokens = speech_mask.sum(dim=1), text_mask.sum(dim=1)  # (batch,)
        ones = torch.ones_like(frames)
        unit_speech, unit_text = unit(speech), unit(text)
        cosines = unit_speech @ unit_text.transpose(1, 2)  # (batch, frames, tokens)
        cosines = cosines.masked_fill(~text_mask[:, None, :], -torch.inf)
        best = cosines.amax(dim=2)  # (batch, frames), 0 at padding, whose vectors are 0
        self.add("best_cosine", best.double().sum(dim=1), frames)
        per_token, path = cosines.masked_fill(~speech_mask[..., None], -torch.inf).max(dim=1)
        per_token = per_token.masked_fill(~text_mask, 0.0).double()
        self.add("alignment_path_score", per_token.sum(dim=1) / tokens, ones)
        rho, ranked = spearman_with_position(path, text_mask)
        self.add("alignment_monotonicity", rho * ranked, ranked)
        for name, values in (
            ("speech", speech),
            ("text", text),
            ("unit_speech", unit_speech),
            ("unit_text", unit_text),
        ):
            total = values.double().sum(dim=(0, 1))
            self._vectors[name] = total + self._vectors.get(name, torch.zeros_like(total))
        for name, value in (
            ("utterances", len(speech)),
            ("frames", frames.sum()),
            ("tokens", tokens.sum()),
            ("speech_norm", speech.norm(dim=-1).double().sum()),
            ("text_norm", text.norm(dim=-1).double().sum()),
        ):
            self._sums[name] = self._sums.get(name, 0.0) + float(value)
        means = (speech.sum(dim=1) / frames[:, None], text.sum(dim=1) / tokens[:, None])
        room = max(0, self.max_retrieval - len(self._keys))
        taken = len(self._keys)
        self._keys += (range(taken, taken + len(speech)) if keys is None else keys)[:room]
        self._pooled += [(f.cpu(), y.cpu()) for f, y in zip(*means, strict=True)][:room]

    def add(self, name: str, numerator: Tensor, denominator: Tensor) -> None:
        """Add a measure of a batch's utterances, (batch,) each, summed over the corpus."""
        sample = numerator.double().cpu(), denominator.double().cpu()
        self._samples.setdefault(name, []).append(sample)

    def compute(self) -> dict[str, float]:
        """The measures over all batches so far, and the counts behind them.

        Measures that the data cannot tell are left out: retrieval with fewer than two distinct
        transcripts, monotonicity when no transcript has three tokens.

        Raises:
            ValueError: no batch was added.
        """
        if not self._sums:
            raise ValueError("expected at least one update() before compute(), received none")
        sums = self._sums
        token_norm = sums["text_norm"] / sums["tokens"]
        if token_norm == 0.0:
            raise ValueError(
                "expected transcript tokens with embeddings, received all-zero rows; "
                "pass the trained embedding table"
            )
        mean = {
            name: total / (sums["frames"] if name.endswith("speech") else sums["tokens"])
            for name, total in self._vectors.items()
        }
        result = {
            "centroid_distance": float((mean["speech"] - mean["text"]).norm()) / token_norm,
            "centroid_distance_unit": float((mean["unit_speech"] - mean["unit_text"]).norm()),
            "norm_ratio": sums["speech_norm"] / sums["frames"] / token_norm,
            "collapse": float(mean["unit_speech"].norm()),
            "collapse_text": float(mean["unit_text"].norm()),
        }
        for name, (above, below) in self.samples().items():
            if below.sum() > 0:
                result[name] = float(above.sum() / below.sum())
        result = {name: result[name] for name in MEASURES if name in result}
        counts = {name: int(sums[name]) for name in ("utterances", "frames", "tokens")}
        counts["candidates"] = len(candidates(self._keys)[0])
        return result | {f"num_{name}": count for name, count in counts.items()}

    def samples(self) -> dict[str, Sample]:
        """Measure -> its numerators and denominators, (utterances,) each, in the order of update.

        The measures that are a ratio of sums over utterances; centroids, norms and collapse are
        not. What retrieval does not rank has 0 in both.
        """
        found = {
            name: (
                torch.cat([above for above, _ in parts]),
                torch.cat([below for _, below in parts]),
            )
            for name, parts in self._samples.items()
        }
        if len(candidates(self._keys)[0]) > 1:
            speech, text = (torch.stack(list(side)) for side in zip(*self._pooled, strict=True))
            found |= self.retrieval_samples("pooled", reciprocal_ranks(speech, text, self._keys))
        return found

    def retrieval_samples(self, name: str, ranks: Tensor) -> dict[str, Sample]:
        """Top 1 and MRR from the reciprocal ranks of the first utterances."""
        above = torch.zeros(int(self._sums["utterances"]), dtype=torch.float64)
        covered = above.clone()
        above[: len(ranks)], covered[: len(ranks)] = ranks, 1.0
        top = (above == 1).double()
        return {
            f"retrieval_{name}_top1": (top, covered),
            f"retrieval_{name}_mrr": (above, covered),
        }


def measure_layers(views: Iterable[Any], layers: Sequence[int]) -> dict[int, LayerGap]:
    """The gap at layers of the language model, over the views of a corpus's batches.

    Args:
        views: what `otreg.forwards.run_forwards` makes of each batch with needs {"text"} and these
            layers: each has `pair(layer)`, a `SpeechTextPair`, and `batch`, with text_ids and
            text_mask.
        layers: 0 = what enters the first layer, k = what leaves layer k.

    Returns:
        Layer -> its gap; `compute()` has the values, `samples()` those of each utterance.
    """
    gaps = {layer: LayerGap() for layer in layers}
    for view in views:
        ids, mask = view.batch["text_ids"], view.batch["text_mask"]
        spoken = mask.any(dim=1)
        keys = [
            tuple(row[real].tolist()) for row, real in zip(ids[spoken], mask[spoken], strict=True)
        ]
        for layer, gap in gaps.items():
            pair = view.pair(layer)
            gap.update(pair.speech, pair.speech_mask, pair.text, pair.text_mask, keys)
    return gaps


def spearman_with_position(path: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Spearman's rho between path and position per row, and which rows have the three tokens.

    rho is Pearson's correlation of the ranks, ties at their mean rank; 0 for a constant path.

    Args:
        path: (batch, tokens) numbers to rank.
        mask: (batch, tokens) bool, True = real token.
    """
    pairs = mask[:, :, None] & mask[:, None, :]
    below = ((path[:, None, :] < path[:, :, None]) & pairs).sum(dim=2)
    equal = ((path[:, None, :] == path[:, :, None]) & pairs).sum(dim=2)
    ranks = below.double() + (equal.double() + 1) / 2
    position = mask.cumsum(dim=1).double()
    count = mask.sum(dim=1, keepdim=True).double()
    real = mask.double()
    centre = (count + 1) / 2
    x, y = (ranks - centre) * real, (position - centre) * real
    scale = (x.square().sum(dim=1) * y.square().sum(dim=1)).sqrt()
    rho = torch.where(scale > 0, (x * y).sum(dim=1) / scale.clamp_min(1e-12), 0.0)
    return rho, count[:, 0] >= 3


def _real(name: str, values: Tensor, mask: Tensor, of: str) -> Tensor:
    """The values in float32, zero at padding; refuses what cannot be measured."""
    if values.ndim != 3 or not values.dtype.is_floating_point:
        raise ValueError(
            f"expected {name} of shape (batch, {of}s, dim), received {values.dtype} of shape "
            f"{tuple(values.shape)}"
        )
    if mask.shape != values.shape[:2] or mask.dtype != torch.bool:
        raise ValueError(
            f"expected a boolean {name}_mask of shape {tuple(values.shape[:2])}, received "
            f"{mask.dtype} of shape {tuple(mask.shape)}"
        )
    if not mask.any(dim=1).all():
        raise ValueError(
            f"expected at least one real {of} in every utterance, received {name}_mask with an "
            "all-False row; leave that utterance out"
        )
    mask = mask.to(values.device)
    values = torch.where(mask[..., None], values.detach().float(), 0.0)
    if not torch.isfinite(values).all():
        raise ValueError(
            f"expected finite {name} at real {of}s, received NaN or infinity; the model has "
            f"diverged or {name}_mask marks padding as real"
        )
    return values
