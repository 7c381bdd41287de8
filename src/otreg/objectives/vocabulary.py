"""The classes that speech embeddings are scored against, read from the embedding table in place."""

# ruff: noqa: F722
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from otreg.pair import SpeechTextPair
from otreg.shapes import Float, Int

_SAME_ROW = 1 - 1e-5  # a cosine; rounding to bfloat16 alone costs less than 1e-6
_PROBED_COLUMNS = 4
_MAX_SEED = 2**63


@dataclass(frozen=True)
class Classes:
    """The classes of a pair. A class is a row of the table by its id, or the pad row, the last.

    Args:
        table: (vocab, dim) the embedding rows, not copied; without gradient.
        token_class: (batch, tokens) the class of each transcript token; 0 at padding.
        pad_row: (dim,) the row of the class `pad_class`; None without one.
        members: (classes,) ids of the rows that take part; None = all rows.
        num_drawn: how many members, the last ones, stand for all rows that do not take part.
        drawn_log_weight: log of how many rows each drawn member stands for; added to its score.
        gives_way: ids of rows that are the pad row, which do not take part beside it.
    """

    table: Tensor
    token_class: Tensor
    pad_row: Tensor | None = None
    members: Tensor | None = None
    num_drawn: int = 0
    drawn_log_weight: float = 0.0
    gives_way: tuple[int, ...] = ()

    @property
    def pad_class(self) -> int:
        """The class of the pad row: one past the table's last."""
        return len(self.table)

    @property
    def num_classes(self) -> int:
        """How many classes take part."""
        rows = len(self.table) - len(self.gives_way) if self.members is None else len(self.members)
        return rows + (self.pad_row is not None)

    def rows(self, classes: Int[Tensor, "batch n"]) -> Float[Tensor, "batch n dim"]:
        """The rows of some classes, in the table's dtype."""
        ids = classes.clamp(max=len(self.table) - 1)
        rows = self.table.index_select(0, ids.flatten()).view(*ids.shape, -1)
        if self.pad_row is None:
            return rows
        is_pad = (classes == self.pad_class).unsqueeze(2)
        return torch.where(is_pad, self.pad_row.to(rows.dtype), rows)

    def chunks(self, size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """All classes, `size` at a time.

        Yields:
            rows (c, dim) with c <= size, and (c,) what their scores are raised by, or None.
        """
        if self.pad_row is not None:
            yield self.pad_row.unsqueeze(0), None
        total = len(self.table) if self.members is None else len(self.members)
        for start in range(0, total, size):
            stop = min(start + size, total)
            if self.members is None:
                gone = [row - start for row in self.gives_way if start <= row < stop]
                raised = None
                if gone:
                    raised = torch.zeros(stop - start, device=self.table.device)
                    raised[gone] = -math.inf
                yield self.table[start:stop], raised
                continue
            raised = None
            first_drawn = total - self.num_drawn
            if stop > first_drawn and self.drawn_log_weight != 0:
                raised = torch.zeros(stop - start, device=self.table.device)
                raised[max(first_drawn - start, 0) :] = self.drawn_log_weight
            yield self.table.index_select(0, self.members[start:stop]), raised


def check_vocabulary(setting: str | int) -> None:
    """Refuse a setting of `vocabulary` that is none.

    Raises:
        ValueError: unless it is "all", "step" or a number >= 0.
    """
    is_number = isinstance(setting, int) and not isinstance(setting, bool)
    if setting in ("all", "step") or (is_number and int(setting) >= 0):
        return
    raise ValueError(
        "vocabulary must be 'all', 'step' (the transcripts' tokens of the step) or a number >= 0 "
        f"(those and so many more, drawn at random), got {setting!r}"
    )


def pair_classes(pair: SpeechTextPair, *, pad_class: bool, setting: str | int = "all") -> Classes:
    """Choose the classes of a pair.

    Args:
        pair: with an embedding_table and token_ids; or without a table, when the distinct tokens of
            the batch (by id where token_ids are given, by row otherwise) are the whole vocabulary.
        pad_class: add the pair's pad_embedding as a class of its own; rows of the table that are
            the pad row give way to it.
        setting: which rows of the table take part. "all"; "step": the tokens of pair.step_ids and
            of the pair itself; a number k: those and k others, drawn without replacement by
            pair.draw_seed, each of which stands for (the others' number) / k rows, so that the sum
            over classes is right on average.

    Raises:
        ValueError: when token_ids are missing beside a table, pad_embedding is missing, a
            transcript holds a token whose row is the pad row, or rows are to be drawn without a
            table.

    Source: weighting the drawn classes by how rarely they are drawn: Bengio and Senécal 2008,
        Jean et al. 2015 (arXiv 1412.2007); transcripts' tokens always take part: ours.
    """
    mask = pair.text_mask
    assert mask is not None  # SpeechTextPair fills masks in
    if pair.embedding_table is None:
        if setting not in ("all", "step", 0):
            raise ValueError(
                f"vocabulary={setting!r} draws rows of the pair's embedding_table, got None; pass "
                "the language model's get_input_embeddings().weight, or vocabulary='step'"
            )
        table, token_class = _batch_rows(pair, mask)
        setting = "all"
    elif pair.token_ids is None:
        raise ValueError(
            "token_ids are needed to find the transcript in the pair's embedding_table, got "
            "None; pass SpeechTextPair(token_ids=…)"
        )
    else:
        table = pair.embedding_table.detach()
        token_class = torch.where(mask, pair.token_ids.long(), 0)

    pad_row = None
    gives_way: tuple[int, ...] = ()
    if pad_class:
        if pair.pad_embedding is None:
            raise ValueError(
                "pad_embedding is needed for the class of silence, got None; pass "
                "SpeechTextPair(pad_embedding=…), the row of the language model's pad token"
            )
        pad_row = pair.pad_embedding.detach()
        gives_way = _pad_rows(pair, table, pad_row)
        _require_no_pad(pair, token_class[mask], gives_way)
    if setting == "all":
        return Classes(table, token_class, pad_row, gives_way=gives_way)

    ids = token_class[mask]
    if pair.step_ids is not None:
        ids = torch.cat([ids, pair.step_ids.long()])
    members = torch.unique(ids)
    if gives_way:
        members = members[~torch.isin(members, members.new_tensor(gives_way))]
    others = len(table) - len(members) - len(gives_way)
    num_drawn = 0 if setting == "step" else min(int(setting), others)
    if num_drawn == 0:
        return Classes(table, token_class, pad_row, members, gives_way=gives_way)
    drawn = _draw(len(table), num_drawn, members, gives_way, pair.draw_seed or 0)
    log_weight = math.log(others / num_drawn)
    members = torch.cat([members, drawn])
    return Classes(table, token_class, pad_row, members, num_drawn, log_weight, gives_way)


def rows_like(table: Float[Tensor, "vocab dim"], row: Float[Tensor, " dim"]) -> tuple[int, ...]:
    """Find the rows of a table that point where a row points.

    It looks at a few columns of the table, and at whole rows only where those fit.

    Args:
        table: (vocab, dim).
        row: (dim,); a zero row finds zero rows.

    Returns:
        Their numbers, ascending.
    """
    dtype = torch.float64 if table.dtype == torch.float64 else torch.float32
    row = row.to(dtype)
    columns = row.abs().topk(min(_PROBED_COLUMNS, len(row))).indices
    probed, wanted = table.index_select(1, columns).to(dtype), row[columns]
    if not bool(wanted[0]):  # the largest of the row: all of it is zero
        fits = (probed == 0).all(1)
    else:
        first = probed[:, :1]
        close = (probed * wanted[0] - first * wanted).abs() <= 0.03 * (first * wanted[0]).abs()
        fits = close.all(1) & (first[:, 0] * wanted[0] > 0)
    found = fits.nonzero().squeeze(1)
    rows = table.index_select(0, found).to(dtype)
    if not bool(wanted[0]):
        same = (rows == 0).all(1)
    else:
        same = (rows @ row) >= _SAME_ROW * rows.norm(dim=1) * row.norm()
    return tuple(found[same].tolist())


def _pad_rows(pair: SpeechTextPair, table: Tensor, pad_row: Tensor) -> tuple[int, ...]:
    """The table's rows that are the pad row: by its id where that is known."""
    if pair.embedding_table is not None and pair.pad_token_id is not None:
        return (pair.pad_token_id,)
    return rows_like(table, pad_row)


def _require_no_pad(pair: SpeechTextPair, ids: Tensor, gives_way: tuple[int, ...]) -> None:
    """Refuse a transcript with a token that cannot be told from silence."""
    assert pair.pad_embedding is not None
    assert pair.text_mask is not None
    is_pad = torch.isin(ids, ids.new_tensor(gives_way)).any()
    equal = (pair.text.detach() == pair.pad_embedding.detach().to(pair.text.dtype)).all(2)
    if bool(is_pad | (equal & pair.text_mask).any()):
        raise ValueError(
            "a token of the transcript has the same embedding as the pad row, so silence and that "
            "token cannot be told apart; give the pad token an embedding of its own"
        )


def _draw(
    vocab: int, count: int, members: Tensor, gives_way: tuple[int, ...], seed: int
) -> Int[Tensor, " count"]:
    """`count` ids that are neither members nor give way, without replacement, the same by seed."""
    generator = torch.Generator().manual_seed(seed % _MAX_SEED)  # on the CPU: equal on all devices
    order = torch.randperm(vocab, generator=generator)
    taken = torch.zeros(vocab, dtype=torch.bool)
    taken[members.cpu()] = True
    taken[list(gives_way)] = True
    return order[~taken[order]][:count].to(members.device)


def _batch_rows(pair: SpeechTextPair, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The batch's distinct tokens as a vocabulary: their rows, and the class of each token."""
    text = pair.text.detach()[mask]  # (real tokens, dim)
    if pair.token_ids is None:
        rows, inverse = torch.unique(text, dim=0, return_inverse=True)
    else:
        ids, inverse = torch.unique(pair.token_ids[mask], return_inverse=True)
        rows = text.new_empty(len(ids), text.shape[1]).index_copy_(0, inverse, text)
    token_class = torch.zeros(mask.shape, dtype=torch.long, device=mask.device)
    token_class[mask] = inverse
    return rows, token_class
