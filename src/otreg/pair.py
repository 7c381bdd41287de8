"""The pair of sequences that every objective compares."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TokenRows:
    """An embedding table that is read a few rows at a time, through the module that owns it.

    Where weights are sharded (FSDP2), no process holds the whole table, and reading the weight past
    its module gives wrong gradients or none; the module's own forward gathers what it needs.

    Args:
        embed: (n,) ids -> (n, dim) rows, without gradient.
        shape: (vocab, dim).
        device: where the rows are.
    """

    embed: Callable[[Tensor], Tensor]
    shape: tuple[int, int]
    device: torch.device

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: object) -> Tensor:
        raise ValueError(
            "the whole embedding table cannot be read: its weight is sharded, and only some rows at a "
            "time are gathered; use vocabulary=2048 (or 'step') in place of 'all'"
        )

    def detach(self) -> "TokenRows":
        """Itself: its rows carry no gradient."""
        return self

    def index_select(self, dim: int, ids: Tensor) -> Tensor:
        """(n, dim) the rows of some ids."""
        assert dim == 0
        return self.embed(ids)


@dataclass(frozen=True)
class SpeechTextPair:
    """Speech embeddings beside the embeddings of their transcripts, in one space.

    Validated once, here; the objectives trust it. What stands at padded positions does not matter,
    NaN and infinity included. Inside torch.compile only shapes, dtypes and devices are validated:
    looking at values would cut the graph in two.

    Args:
        speech: (batch, frames, dim) the adapter's outputs; carries the gradient.
        text: (batch, tokens, dim) the language model's input-embedding rows of the transcript's
            tokens, without beginning or end of sequence.
        speech_mask: (batch, frames) boolean, True = real; None = all real.
        text_mask: (batch, tokens) boolean, True = real; None = all real.
        token_ids: (batch, tokens) integer ids of the transcript's tokens; needed by the vocabulary
            loss over an embedding table and by CTC.
        pad_embedding: (dim,) the language model's row that stands for "nothing said".
        embedding_table: (vocab, dim) the language model's input-embedding rows, read in place and
            never copied; a Parameter will do, or `TokenRows` where it is sharded. Only the rows'
            directions are used, so a factor that the model multiplies them all by (Gemma does) need
            not be applied.
        pad_token_id: the row of embedding_table that pad_embedding is; None = not known, then the
            objectives that need it look for it.
        step_ids: (k,) the distinct token ids of all transcripts of the optimiser step, over its
            micro-batches and ranks; None = the pair's own. For objectives with vocabulary="step" or
            a number.
        draw_seed: seeds what such objectives draw; the same seed draws the same rows. None =
            torch's global generator decides, anew at every call.

    Raises:
        ValueError: on shapes, dtypes or devices that do not fit, or an utterance without one real
            frame and one real token.

    Example:
        >>> pair = SpeechTextPair(torch.randn(2, 9, 4), torch.randn(2, 3, 4))
        >>> pair.speech_mask.shape
        torch.Size([2, 9])
    """

    speech: Tensor
    text: Tensor
    speech_mask: Tensor | None = None
    text_mask: Tensor | None = None
    token_ids: Tensor | None = None
    pad_embedding: Tensor | None = None
    embedding_table: Tensor | TokenRows | None = None
    pad_token_id: int | None = None
    step_ids: Tensor | None = None
    draw_seed: int | None = None

    def __post_init__(self) -> None:
        """Validate, and fill masks that were left out."""
        for name, axes in (("speech", "frames"), ("text", "tokens")):
            value = getattr(self, name)
            _require_floating(name, value)
            if value.ndim != 3:
                raise ValueError(
                    f"{name} must be (batch, {axes}, dim), got shape {tuple(value.shape)}; "
                    "add a batch axis with unsqueeze(0) for a single utterance"
                )
        batch, frames, dim = self.speech.shape
        if self.text.shape[0] != batch or self.text.shape[2] != dim:
            raise ValueError(
                f"text must be (batch={batch}, tokens, dim={dim}) to match speech "
                f"{tuple(self.speech.shape)}, got {tuple(self.text.shape)}; both must hold the "
                "same utterances, embedded in the language model's input space"
            )
        tokens = self.text.shape[1]
        device = self.speech.device
        for name, length in (("speech_mask", frames), ("text_mask", tokens)):
            mask = getattr(self, name)
            if mask is None:
                object.__setattr__(
                    self, name, torch.ones(batch, length, dtype=torch.bool, device=device)
                )
                continue
            _require_shape(name, mask, (batch, length))
            if mask.dtype != torch.bool:
                raise ValueError(
                    f"{name} must be boolean (True = real), got {mask.dtype}; convert it with "
                    ".bool()"
                )
        if self.token_ids is not None:
            _require_shape("token_ids", self.token_ids, (batch, tokens))
            _require_integers("token_ids", self.token_ids)
        if self.step_ids is not None:
            if not isinstance(self.step_ids, Tensor) or self.step_ids.ndim != 1:
                raise ValueError(
                    "step_ids must be a tensor of shape (k,), the distinct token ids of a step; got "
                    f"{_shape_of(self.step_ids)}"
                )
            _require_integers("step_ids", self.step_ids)
        if self.pad_embedding is not None:
            _require_floating("pad_embedding", self.pad_embedding)
            _require_shape("pad_embedding", self.pad_embedding, (dim,))
        if self.embedding_table is not None:
            table = self.embedding_table
            if not isinstance(table, TokenRows):
                _require_floating("embedding_table", table)
            if len(table.shape) != 2 or table.shape[1] != dim:
                raise ValueError(
                    f"embedding_table must be (vocab, dim={dim}), got {tuple(table.shape)}; pass "
                    "the language model's get_input_embeddings().weight"
                )
            if self.pad_token_id is not None and not 0 <= self.pad_token_id < len(table):
                raise ValueError(
                    f"pad_token_id must lie in [0, {len(table)}), the rows of embedding_table, got "
                    f"{self.pad_token_id}; pass None where the pad row is none of them"
                )
        for name, value in vars(self).items():
            if isinstance(value, Tensor) and value.device != device:
                raise ValueError(
                    f"{name} is on {value.device}, speech on {device}; move all tensors to one "
                    "device"
                )
        if not torch.compiler.is_compiling():
            self._require_content()

    def _require_content(self) -> None:
        """Refuse empty utterances and token ids outside of the table."""
        assert self.speech_mask is not None
        assert self.text_mask is not None
        for name, mask, what in (
            ("speech_mask", self.speech_mask, "frame"),
            ("text_mask", self.text_mask, "token"),
        ):
            real = mask.any(1)
            if not bool(real.all()):
                rows = (~real).nonzero().flatten().tolist()
                raise ValueError(
                    f"{name} has no real {what} in utterance(s) {rows} of the batch; every "
                    f"utterance needs at least one {what}: leave empty utterances out"
                )
        if self.embedding_table is None:
            return
        vocab = len(self.embedding_table)
        ids = {"token_ids": None if self.token_ids is None else self.token_ids[self.text_mask]}
        for name, real_ids in (ids | {"step_ids": self.step_ids}).items():
            if real_ids is None or real_ids.numel() == 0:
                continue
            low, high = int(real_ids.min()), int(real_ids.max())
            if low < 0 or high >= vocab:
                raise ValueError(
                    f"{name} must lie in [0, {vocab}) to index embedding_table, got {low} … {high}; "
                    "mark padding in text_mask, and take ids and table from one tokenizer and model"
                )


def _require_floating(name: str, value: Tensor) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name} must be a floating-point tensor, got {got}")


def _require_integers(name: str, value: Tensor) -> None:
    if value.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"{name} must be integers, got {value.dtype}; use .long()")


def _require_shape(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if not isinstance(value, Tensor) or tuple(value.shape) != shape:
        raise ValueError(f"{name} must be a tensor of shape {shape}, got {_shape_of(value)}")


def _shape_of(value: object) -> object:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
