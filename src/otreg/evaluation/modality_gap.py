"""Computes the gap measures of `otreg.evaluation.measures` over a corpus, batch by batch."""

import torch
from torch import Tensor

from otreg.evaluation.layer_gap import LayerGap, Sample
from otreg.evaluation.measures import MEASURES
from otreg.evaluation.retrieval import candidates, reciprocal_ranks_of
from otreg.evaluation.vectors import unit


class ModalityGap:
    """Accumulates measures over batches of speech embeddings and transcripts, at the input layer.

    Adds to those of `LayerGap` what needs the whole vocabulary: the nearest-token readout and late
    retrieval. The whole corpus is one population: centroids, collapse and retrieval are taken over
    all that `update` has seen. Nothing carries a gradient. Padding, whatever it holds, changes
    nothing.

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
        self._vectors = LayerGap(max_retrieval=max_retrieval)
        self._transcripts: list[tuple[int, ...]] = []
        self._reach: list[Tensor] = []  # max_i cos(f_i, e_v) of each utterance, (vocab,)

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
        self._check(speech_embeds, text_ids, text_mask)
        device = self.table.device
        speech_mask, text_mask = speech_mask.to(device), text_mask.to(device)
        ids = torch.where(text_mask, text_ids.to(device), 0)
        keys = [tuple(row[real].tolist()) for row, real in zip(ids, text_mask, strict=True)]
        speech = speech_embeds.detach().to(device, torch.float32)
        self._vectors.update(speech, speech_mask, self.table[ids], text_mask, keys)

        speech = torch.where(speech_mask[..., None], speech, 0.0)
        nearest, reach = self._readout(unit(speech), speech_mask)
        said = (nearest[:, :, None] == ids[:, None, :]) & text_mask[:, None, :]
        said &= speech_mask[:, :, None]  # (batch, frames, tokens)
        first = _first_occurrence(ids, text_mask)  # (batch, tokens), True once per distinct token
        covered = (said.any(dim=1) & first).sum(dim=1) / first.sum(dim=1)
        frames = speech_mask.sum(dim=1)
        self._vectors.add("coverage", covered, torch.ones_like(covered))
        self._vectors.add("nearest_token", said.any(dim=2).sum(dim=1), frames)
        if self.pad_token_id is not None:
            padded = (nearest == self.pad_token_id) & speech_mask
            self._vectors.add("pad_share", padded.sum(dim=1), frames)
        room = max(0, self.max_retrieval - len(self._transcripts))
        self._transcripts += keys[:room]
        self._reach += list(reach[:room])

    def compute(self) -> dict[str, float]:
        """The measures over all batches so far, and the counts behind them.

        Measures that the data cannot tell are left out: retrieval with fewer than two distinct
        transcripts, monotonicity when no transcript has three tokens.

        Raises:
            ValueError: no batch was added.
        """
        values = self._vectors.compute()
        for name, (above, below) in self._late().items():
            values[name] = float(above.sum() / below.sum())
        ordered = [name for name in MEASURES if name in values]
        counts = [name for name in values if name not in MEASURES]
        return {name: values[name] for name in ordered + counts}

    def samples(self) -> dict[str, Sample]:
        """Measure -> its numerators and denominators, as `LayerGap.samples` gives them."""
        return self._vectors.samples() | self._late()

    def _late(self) -> dict[str, Sample]:
        """Late retrieval among the distinct transcripts; nothing where there is only one."""
        rows, right = candidates(self._transcripts)
        if len(rows) < 2:
            return {}
        reach = torch.stack(self._reach)  # (utterances, vocab)
        texts = [torch.tensor(self._transcripts[row]) for row in rows]
        scores = torch.stack([reach[:, ids].mean(dim=1) for ids in texts], dim=1)
        return self._vectors.retrieval_samples("late", reciprocal_ranks_of(scores, right))

    def _readout(self, unit_speech: Tensor, speech_mask: Tensor) -> tuple[Tensor, Tensor]:
        """near(f) of every frame, (batch, frames), and max_i cos(f_i, e_v), (batch, vocab)."""
        batch, frames, _ = unit_speech.shape
        chunk = max(1, self.max_elements // (batch * frames))
        best = unit_speech.new_full((batch, frames), -torch.inf)
        nearest = torch.zeros(batch, frames, dtype=torch.long, device=unit_speech.device)
        reach: list[Tensor] = []
        for start in range(0, self.table.shape[0], chunk):
            rows = unit(self.table[start : start + chunk].float())
            cosines = unit_speech @ rows.T  # (batch, frames, chunk)
            value, index = cosines.max(dim=2)
            nearest = torch.where(value > best, index + start, nearest)
            best = torch.maximum(best, value)
            reach.append(cosines.masked_fill(~speech_mask[..., None], -torch.inf).amax(1).cpu())
        return nearest, torch.cat(reach, dim=1)

    def _check(self, speech: Tensor, ids: Tensor, text_mask: Tensor) -> None:
        """What `LayerGap` cannot see: the table's width and its ids."""
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
        if text_mask.shape != ids.shape or text_mask.dtype != torch.bool:
            raise ValueError(
                f"expected a boolean text_mask of shape {tuple(ids.shape)}, received "
                f"{text_mask.dtype} of shape {tuple(text_mask.shape)}"
            )
        real = ids[text_mask]
        if len(real) and (real.min() < 0 or real.max() >= vocab):
            raise ValueError(
                f"expected token ids in [0, {vocab}), received {int(real.min())} to "
                f"{int(real.max())}; text_ids hold the transcript alone, without audio tokens"
            )


def _first_occurrence(ids: Tensor, mask: Tensor) -> Tensor:
    """(batch, tokens) True where a real token has not occurred before in its row."""
    same = (ids[:, :, None] == ids[:, None, :]) & mask[:, None, :]
    return mask & ~same.tril(diagonal=-1).any(dim=2)
