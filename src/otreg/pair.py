"""The pair of sequences that every objective compares."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SpeechTextPair:
    """Speech embeddings beside the embeddings of their transcripts, in one space.

    Validated once, here; the objectives trust it. What stands at padded positions does not matter,
    NaN and infinity included.

    Args:
        speech: (batch, frames, dim) the adapter's outputs; carries the gradient.
        text: (batch, tokens, dim) the language model's input-embedding rows of the transcript's
            tokens, without beginning or end of sequence.
        speech_mask: (batch, frames) boolean, True = real; None = all real.
        text_mask: (batch, tokens) boolean, True = real; None = all real.
        token_ids: (batch, tokens) integer ids of the transcript's tokens; needed by the vocabulary
            loss over an embedding table and by CTC.
        pad_embedding: (dim,) the language model's row that stands for "nothing said".
        embedding_table: (vocab, dim) the language model's input-embedding rows.

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
    embedding_table: Tensor | None = None

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
            if self.token_ids.dtype not in (torch.int64, torch.int32):
                raise ValueError(
                    f"token_ids must be integers, got {self.token_ids.dtype}; use .long()"
                )
        if self.pad_embedding is not None:
            _require_floating("pad_embedding", self.pad_embedding)
            _require_shape("pad_embedding", self.pad_embedding, (dim,))
        if self.embedding_table is not None:
            _require_floating("embedding_table", self.embedding_table)
            table = self.embedding_table
            if table.ndim != 2 or table.shape[1] != dim:
                raise ValueError(
                    f"embedding_table must be (vocab, dim={dim}), got {tuple(table.shape)}; pass "
                    "the language model's get_input_embeddings().weight"
                )
        for name, value in vars(self).items():
            if isinstance(value, Tensor) and value.device != device:
                raise ValueError(
                    f"{name} is on {value.device}, speech on {device}; move all tensors to one "
                    "device"
                )
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
        if self.token_ids is not None and self.embedding_table is not None:
            vocab = self.embedding_table.shape[0]
            real_ids = self.token_ids[self.text_mask]
            low, high = int(real_ids.min()), int(real_ids.max())
            if low < 0 or high >= vocab:
                raise ValueError(
                    f"token_ids must lie in [0, {vocab}) to index embedding_table, got {low} … "
                    f"{high}; mark padding in text_mask, and take both from one tokenizer and model"
                )


def _require_floating(name: str, value: Tensor) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name} must be a floating-point tensor, got {got}")


def _require_shape(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if not isinstance(value, Tensor) or tuple(value.shape) != shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name} must be a tensor of shape {shape}, got {got}")
