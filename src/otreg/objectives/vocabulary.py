"""The classes that speech embeddings are scored against, read from the embedding table in place."""

# ruff: noqa: F722
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from otreg.pair import SpeechTextPair, TokenRows
from otreg.shapes import Float, Int

_SAME_ROW = 1 - 1e-5  # a cosine; rounding to bfloat16 alone costs less than 1e-6
_PROBED_COLUMNS = 4
_MAX_SEED = 2**63
_ALL_ROWS, _DRAWN_ROWS = 8192, 2048  # what "auto" means


@dataclass(frozen=True)
class Classes:
    """The classes of a pair. A class is a row of the table by its id; where the pad row is none of
    them, it is one more, the last.

    Args:
        table: (vocab, dim) the embedding rows, not copied; without gradient.
        token_class: (batch, tokens) the class of each transcript token; 0 at padding.
        pad_class: the class of the pad row; None without one.
        pad_row: (dim,) that row, where it is none of the table's.
        members: (classes,) ids of the rows that take part; None = all rows.
        num_drawn: how many members, the last ones, stand for all rows that do not take part.
        drawn_log_weight: log of how many rows each drawn member stands for; added to its score.
        left_out: ids of further rows that are the pad row, which do not take part beside it.
    """

    table: Tensor | TokenRows
    token_class: Tensor
    pad_class: int | None = None
    pad_row: Tensor | None = None
    members: Tensor | None = None
    num_drawn: int = 0
    drawn_log_weight: float = 0.0
    left_out: tuple[int, ...] = ()

    @property
    def num_classes(self) -> int:
        """How many classes take part."""
        rows = len(self.table) - len(self.left_out) if self.members is None else len(self.members)
        return rows + (self.pad_row is not None)

    def rows(self, classes: Int[Tensor, "batch n"]) -> Float[Tensor, "batch n dim"]:
        """The rows of some classes, in the table's dtype."""
        ids = classes.clamp(max=len(self.table) - 1)
        rows = self.table.index_select(0, ids.flatten()).view(*ids.shape, -1)
        if self.pad_row is None:
            return rows
        is_pad = torch.eq(classes, len(self.table)).unsqueeze(2)
        return torch.where(is_pad, self.pad_row.to(rows.dtype), rows)

    def chunks(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All classes, `size` at a time.

        Yields:
            rows (c, dim) with c <= size, and (c,) what their scores are raised by.
        """
        device = self.table.device
        if self.pad_row is not None:
            yield self.pad_row.unsqueeze(0), torch.zeros(1, device=device)
        if self.members is None:
            for start in range(0, len(self.table), size):
                rows = self.table[start : start + size]
                raised = torch.zeros(len(rows), device=device)
                gone = [row - start for row in self.left_out if start <= row < start + len(rows)]
                if gone:
                    raised[gone] = -math.inf
                yield rows, raised
            return
        raised = torch.zeros(len(self.members), device=device)
        raised[len(self.members) - self.num_drawn :] = self.drawn_log_weight
        for start in range(0, len(self.members), size):
            part = slice(start, start + size)
            yield self.table.index_select(0, self.members[part]), raised[part]


def check_vocabulary(setting: str | int) -> None:
    """Refuse a setting of `vocabulary` that is none.

    Raises:
        ValueError: unless it is "auto", "all", "step" or a number >= 0.
    """
    is_number = isinstance(setting, int) and not isinstance(setting, bool)
    if setting in ("auto", "all", "step") or (is_number and int(setting) >= 0):
        return
    raise ValueError(
        "vocabulary must be 'auto', 'all', 'step' (the transcripts' tokens of the step) or a number >= 0 "
        f"(those and so many more, drawn at random), got {setting!r}"
    )


def resolved(setting: str | int, table: Tensor | TokenRows | None) -> str | int:
    """What "auto" means for a table: all its rows up to 8192 of them, above that (or where they
    cannot be read at once) the step's tokens and 2048 drawn; another setting stays.
    """
    if setting != "auto":
        return setting
    small = table is None or (len(table) <= _ALL_ROWS and not isinstance(table, TokenRows))
    return "all" if small else _DRAWN_ROWS


def pair_classes(pair: SpeechTextPair, *, with_pad: bool, setting: str | int = "auto") -> Classes:
    """Choose the classes of a pair.

    Args:
        pair: with an embedding_table and token_ids; or without a table, when the distinct tokens of
            the batch (by id where token_ids are given, by row otherwise) are the whole vocabulary.
        with_pad: the pair's pad_embedding is a class too: its row of the table, or, where it has
            none, one more.
        setting: which rows of the table take part. "auto": see `resolved`; "all"; "step": the
            tokens of pair.step_ids and of the pair itself; a number k: those and k others, drawn
            without replacement by pair.draw_seed (None: by torch's global generator), each of which
            stands for (the others' number) / k rows, so that the sum over classes is right on
            average.

    Raises:
        ValueError: when token_ids are missing beside a table, pad_embedding is missing, a
            transcript holds a token whose row is the pad row, or rows are to be drawn without a
            table.

    Source: weighting the drawn classes by how rarely they are drawn: Bengio and Senécal 2008,
        Jean et al. 2015 (arXiv 1412.2007); transcripts' tokens always take part: ours.
    """
    mask = pair.text_mask
    assert mask is not None  # SpeechTextPair fills masks in
    setting = resolved(setting, pair.embedding_table)
    table: Tensor | TokenRows
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

    pad_class, pad_row = None, None
    left_out: tuple[int, ...] = ()
    if with_pad:
        if pair.pad_embedding is None:
            raise ValueError(
                "pad_embedding is needed for the class of silence, got None; pass "
                "SpeechTextPair(pad_embedding=…), the row of the language model's pad token"
            )
        own = _pad_rows(pair, table)
        _require_no_pad(pair, token_class[mask], own)
        pad_row = None if own else pair.pad_embedding.detach()
        pad_class, left_out = (own[0] if own else len(table)), own[1:]
    if setting == "all":
        return Classes(table, token_class, pad_class, pad_row, left_out=left_out)

    members = token_class[mask]
    if pair.step_ids is not None:
        members = torch.cat([members, pair.step_ids.long()])
    if pad_class is not None and pad_row is None:
        members = torch.cat([members, members.new_tensor([pad_class])])
    members = torch.unique(members)
    if left_out:
        members = members[~torch.isin(members, members.new_tensor(left_out))]
    others = len(table) - len(members) - len(left_out)
    num_drawn = 0 if setting == "step" else min(int(setting), others)
    log_weight = 0.0
    if num_drawn > 0:
        seed = pair.draw_seed
        if seed is None:
            seed = int(torch.randint(_MAX_SEED - 1, ()))
        drawn = _draw(len(table), num_drawn, members, left_out, seed)
        members = torch.cat([members, drawn])
        log_weight = math.log(others / num_drawn)
    return Classes(table, token_class, pad_class, pad_row, members, num_drawn, log_weight, left_out)


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


def _pad_rows(pair: SpeechTextPair, table: Tensor | TokenRows) -> tuple[int, ...]:
    """The table's rows that are the pad row: by its id where that is known."""
    assert pair.pad_embedding is not None
    if pair.embedding_table is not None and pair.pad_token_id is not None:
        return (pair.pad_token_id,)
    if isinstance(table, TokenRows):
        raise ValueError(
            "a sharded embedding table cannot be searched for the pad row, and pad_token_id is None; "
            "pass SpeechTextPair(pad_token_id=…)"
        )
    return rows_like(table, pair.pad_embedding.detach())


def _require_no_pad(pair: SpeechTextPair, ids: Tensor, pad_rows: tuple[int, ...]) -> None:
    """Refuse a transcript with a token that cannot be told from silence."""
    assert pair.pad_embedding is not None
    assert pair.text_mask is not None
    is_pad = torch.isin(ids, ids.new_tensor(pad_rows)).any()
    equal = (pair.text.detach() == pair.pad_embedding.detach().to(pair.text.dtype)).all(2)
    if bool(is_pad | (equal & pair.text_mask).any()):
        raise ValueError(
            "a token of the transcript has the same embedding as the pad row, so silence and that "
            "token cannot be told apart; give the pad token an embedding of its own"
        )


def _draw(
    vocab: int, count: int, members: Tensor, left_out: tuple[int, ...], seed: int
) -> Int[Tensor, " count"]:
    """`count` ids that are neither members nor left out, without replacement, the same by seed."""
    generator = torch.Generator().manual_seed(seed % _MAX_SEED)  # on the CPU: equal on all devices
    order = torch.randperm(vocab, generator=generator)
    taken = torch.zeros(vocab, dtype=torch.bool)
    taken[members.cpu()] = True
    taken[list(left_out)] = True
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
