"""Computes the gap measures of `otreg.evaluation.measures` over a corpus, batch by batch."""

import torch
from torch import Tensor

from otreg.evaluation.measures import MEASURES

_TIE = 1e-6  # scores closer than this are one score to float32 cosines


class ModalityGap:
    """Accumulates the measures of `MEASURES` over batches of speech embeddings and transcripts.

    The whole corpus is one population: centroids, collapse and retrieval are taken over all that
    `update` has seen. Nothing carries a gradient. Padding, whatever it holds, changes nothing.

    Args:
        embedding_table: (vocab, dim) the language model's input-embedding rows.
        pad_token_id: row that stands for "nothing said"; adds the measure pad_share.
        max_retrieval: retrieval ranks among the transcripts of at most this many utterances, the
            first ones; it bounds memory at max_retrieval * vocab floats.
        max_elements: similarities held at once; the vocabulary is walked in chunks of that size.

    Raises:
        ValueError: a table that is no matrix or not finite, a pad id outside it, or limits below 1.

    Example:
        >>> table = torch.eye(4)
        >>> gap = ModalityGap(table)
        >>> mask = torch.ones(1, 2, dtype=torch.bool)
        >>> gap.update(3 * table[None, [1, 2]], mask, torch.tensor([[1, 2]]), mask)
        >>> gap.compute()["coverage"]
        1.0
    """

    def __init__(
        self,
        embedding_table: Tensor,
        *,
        pad_token_id: int | None = None,
        max_retrieval: int = 500,
        max_elements: int = 2**24,
    ) -> None:
        if embedding_table.ndim != 2 or embedding_table.shape[0] < 1:
            raise ValueError(
                "expected an embedding_table of shape (vocab, dim), received "
                f"{tuple(embedding_table.shape)}; pass model.get_input_embeddings().weight"
            )
        vocab = embedding_table.shape[0]
        if pad_token_id is not None and not 0 <= pad_token_id < vocab:
            raise ValueError(
                f"expected a pad_token_id in [0, {vocab}), received {pad_token_id}; "
                "pass None if the table has no pad row"
            )
        if max_retrieval < 1 or max_elements < 1:
            raise ValueError(
                "expected max_retrieval and max_elements of at least 1, received "
                f"{max_retrieval} and {max_elements}"
            )
        self.table = embedding_table.detach()
        self.pad_token_id = pad_token_id
        self.max_retrieval = max_retrieval
        self.max_elements = max_elements
        if not torch.isfinite(self.table).all():
            raise ValueError(
                "expected a finite embedding_table, received NaN or infinity; check the weights"
            )
        self._sums: dict[str, float] = {}
        self._vectors: dict[str, Tensor] = {}
        self._transcripts: list[tuple[int, ...]] = []
        self._pooled: list[Tensor] = []  # mean frame of each utterance kept for retrieval, (dim,)
        self._reach: list[Tensor] = []  # max_i cos(f_i, e_v) of each of them, (vocab,)

    @torch.no_grad()
    def update(
        self, speech_embeds: Tensor, speech_mask: Tensor, text_ids: Tensor, text_mask: Tensor
    ) -> None:
        """Add one batch.

        Args:
            speech_embeds: (batch, frames, dim) the model's speech_embeds.
            speech_mask: (batch, frames) bool, True = real frame.
            text_ids: (batch, tokens) the transcripts' token ids, without bos, eos or prompt.
            text_mask: (batch, tokens) bool, True = real token.

        Raises:
            ValueError: shapes or dtypes that do not fit, an utterance without a real frame or
                token, a token id outside the table, or values that are not finite at real frames.
        """
        self._check(speech_embeds, speech_mask, text_ids, text_mask)
        device = self.table.device
        speech_mask, text_mask = speech_mask.to(device), text_mask.to(device)
        ids = torch.where(text_mask, text_ids.to(device), 0)
        speech = speech_embeds.detach().to(device, torch.float32)
        speech = torch.where(speech_mask[..., None], speech, 0.0)
        if not torch.isfinite(speech).all():
            raise ValueError(
                "expected finite speech_embeds at real frames, received NaN or infinity; "
                "the model has diverged or speech_mask marks padding as real"
            )
        text = torch.where(text_mask[..., None], self.table[ids].float(), 0.0)
        unit_speech, unit_text = _unit(speech), _unit(text)

        nearest, reach = self._readout(unit_speech, speech_mask)
        said = (nearest[:, :, None] == ids[:, None, :]) & text_mask[:, None, :]
        said &= speech_mask[:, :, None]  # (batch, frames, tokens)
        first = _first_occurrence(ids, text_mask)  # (batch, tokens), True once per distinct token
        covered = (said.any(dim=1) & first).sum(dim=1) / first.sum(dim=1)
        self._add("utterances", len(ids))
        self._add("frames", speech_mask.sum())
        self._add("tokens", text_mask.sum())
        self._add("coverage", covered.double().sum())
        self._add("nearest_token", said.any(dim=2).sum())
        if self.pad_token_id is not None:
            self._add("pad_share", ((nearest == self.pad_token_id) & speech_mask).sum())

        cosines = unit_speech @ unit_text.transpose(1, 2)  # (batch, frames, tokens)
        cosines = cosines.masked_fill(~text_mask[:, None, :], -torch.inf)
        best = cosines.amax(dim=2).masked_fill(~speech_mask, 0.0)
        self._add("best_cosine", best.double().sum())
        per_token, path = cosines.masked_fill(~speech_mask[..., None], -torch.inf).max(dim=1)
        per_token = per_token.masked_fill(~text_mask, 0.0)
        num_tokens = text_mask.sum(dim=1)
        self._add("alignment_path_score", (per_token.sum(dim=1) / num_tokens).double().sum())
        rho, ranked = _spearman_with_position(path, text_mask)
        self._add("alignment_monotonicity", rho[ranked].double().sum())
        self._add("ranked", ranked.sum())

        for name, values in (
            ("speech", speech),
            ("text", text),
            ("unit_speech", unit_speech),
            ("unit_text", unit_text),
        ):
            total = values.double().sum(dim=(0, 1))
            self._vectors[name] = total + self._vectors.get(name, torch.zeros_like(total))
        self._add("speech_norm", speech.norm(dim=-1).double().sum())
        self._add("text_norm", text.norm(dim=-1).double().sum())

        room = max(0, self.max_retrieval - len(self._transcripts))
        pooled = (speech.sum(dim=1) / speech_mask.sum(dim=1, keepdim=True)).cpu()
        for row in range(min(room, len(ids))):
            self._transcripts.append(tuple(ids[row][text_mask[row]].tolist()))
            self._pooled.append(pooled[row])
            self._reach.append(reach[row])

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
        utterances, frames, tokens = sums["utterances"], sums["frames"], sums["tokens"]
        token_norm = sums["text_norm"] / tokens
        if token_norm == 0.0:
            raise ValueError(
                "expected transcript tokens with embeddings, received all-zero rows; "
                "pass the trained embedding table"
            )
        mean = {
            name: total / (frames if name.endswith("speech") else tokens)
            for name, total in self._vectors.items()
        }
        result = {
            "coverage": sums["coverage"] / utterances,
            "nearest_token": sums["nearest_token"] / frames,
            "best_cosine": sums["best_cosine"] / frames,
            "alignment_path_score": sums["alignment_path_score"] / utterances,
            "centroid_distance": float((mean["speech"] - mean["text"]).norm()) / token_norm,
            "centroid_distance_unit": float((mean["unit_speech"] - mean["unit_text"]).norm()),
            "norm_ratio": sums["speech_norm"] / frames / token_norm,
            "collapse": float(mean["unit_speech"].norm()),
            "collapse_text": float(mean["unit_text"].norm()),
        }
        if self.pad_token_id is not None:
            result["pad_share"] = sums["pad_share"] / frames
        if sums["ranked"]:
            result["alignment_monotonicity"] = sums["alignment_monotonicity"] / sums["ranked"]
        result |= self._retrieval()
        result = {name: result[name] for name in MEASURES if name in result}
        counts = {
            "num_utterances": int(utterances),
            "num_frames": int(frames),
            "num_tokens": int(tokens),
        }
        return result | counts

    def _readout(self, unit_speech: Tensor, speech_mask: Tensor) -> tuple[Tensor, Tensor]:
        """near(f) of every frame, (batch, frames), and max_i cos(f_i, e_v), (batch, vocab)."""
        batch, frames, _ = unit_speech.shape
        chunk = max(1, self.max_elements // (batch * frames))
        best = unit_speech.new_full((batch, frames), -torch.inf)
        nearest = torch.zeros(batch, frames, dtype=torch.long, device=unit_speech.device)
        reach: list[Tensor] = []
        for start in range(0, self.table.shape[0], chunk):
            rows = _unit(self.table[start : start + chunk].float())
            cosines = unit_speech @ rows.T  # (batch, frames, chunk)
            value, index = cosines.max(dim=2)
            nearest = torch.where(value > best, index + start, nearest)
            best = torch.maximum(best, value)
            reach.append(cosines.masked_fill(~speech_mask[..., None], -torch.inf).amax(1).cpu())
        return nearest, torch.cat(reach, dim=1)

    def _retrieval(self) -> dict[str, float]:
        """Top 1 and mean reciprocal rank of the right transcript among the distinct ones."""
        candidates = {text: index for index, text in enumerate(dict.fromkeys(self._transcripts))}
        if len(candidates) < 2:
            return {}
        dim = self.table.shape[1]
        right = torch.tensor([candidates[text] for text in self._transcripts])
        table = self.table.cpu()
        reach = torch.stack(self._reach)  # (utterances, vocab)
        late = torch.empty(len(right), len(candidates))
        pooled_text = torch.empty(len(candidates), dim)
        for text, index in candidates.items():
            ids = torch.tensor(text)
            late[:, index] = reach[:, ids].mean(dim=1)
            pooled_text[index] = table[ids].float().mean(dim=0)
        pooled = _unit(torch.stack(self._pooled)) @ _unit(pooled_text).T
        result: dict[str, float] = {}
        for name, scores in (("pooled", pooled), ("late", late)):
            own = scores.gather(1, right[:, None])
            rank = (scores >= own - _TIE).sum(dim=1).double()  # the right one itself is in the sum
            result[f"retrieval_{name}_top1"] = float((rank == 1).double().mean())
            result[f"retrieval_{name}_mrr"] = float((1 / rank).mean())
        return result

    def _add(self, name: str, value: Tensor | float) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + float(value)

    def _check(self, speech: Tensor, speech_mask: Tensor, ids: Tensor, text_mask: Tensor) -> None:
        vocab, dim = self.table.shape
        if speech.ndim != 3 or speech.shape[2] != dim:
            raise ValueError(
                f"expected speech_embeds of shape (batch, frames, {dim}), received "
                f"{tuple(speech.shape)}; speech and the embedding table must share their width"
            )
        if ids.ndim != 2 or ids.shape[0] != speech.shape[0] or ids.dtype.is_floating_point:
            raise ValueError(
                f"expected integer text_ids of shape ({speech.shape[0]}, tokens), received "
                f"{ids.dtype} of shape {tuple(ids.shape)}"
            )
        for name, mask, of, expected in (
            ("speech_mask", speech_mask, "frame", speech.shape[:2]),
            ("text_mask", text_mask, "token", ids.shape),
        ):
            if mask.shape != expected or mask.dtype != torch.bool:
                raise ValueError(
                    f"expected a boolean {name} of shape {tuple(expected)}, received "
                    f"{mask.dtype} of shape {tuple(mask.shape)}"
                )
            if not mask.any(dim=1).all():
                raise ValueError(
                    f"expected at least one real {of} in every utterance, received {name} with "
                    "an all-False row; leave that utterance out"
                )
        real = ids[text_mask]
        if real.min() < 0 or real.max() >= vocab:
            raise ValueError(
                f"expected token ids in [0, {vocab}), received {int(real.min())} to "
                f"{int(real.max())}; text_ids hold the transcript alone, without audio tokens"
            )


def _unit(x: Tensor) -> Tensor:
    """x / ‖x‖ along the last axis; a zero vector stays zero."""
    return x / x.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def _first_occurrence(ids: Tensor, mask: Tensor) -> Tensor:
    """(batch, tokens) True where a real token has not occurred before in its row."""
    same = (ids[:, :, None] == ids[:, None, :]) & mask[:, None, :]
    return mask & ~same.tril(diagonal=-1).any(dim=2)


def _spearman_with_position(path: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Spearman's rho between path and position per row, and which rows have the three tokens.

    rho is Pearson's correlation of the ranks, ties at their mean rank; 0 for a constant path.
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
