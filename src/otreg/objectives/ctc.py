"""CTC as an objective, with a head of its own or tied to the language model's embeddings."""

import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from otreg.objectives.base import AlignmentOutput, real_speech
from otreg.objectives.vocabulary import pair_vocabulary
from otreg.pair import SpeechTextPair

logger = logging.getLogger(__name__)


class CTC(nn.Module):
    """Connectionist temporal classification of the speech embeddings into the transcript's tokens.

    loss = - log sum over the paths that spell the transcript of prod_i softmax(z_i)[path_i], per
    token, with

        tied:      z_i = cos(f_i, e_v) / temperature over the embedding rows; blank = the pad row
        not tied:  z_i = W f_i + w, a linear head of its own; blank = its last output

    Args:
        tied: score against the pair's embedding_table and pad_embedding; no parameters.
        temperature: of the tied scores, > 0; not used by a head of its own.
        dim: width of the speech embeddings; for a head of its own, and only for it.
        vocab_size: number of token ids; for a head of its own, and only for it.

    Returns:
        Calling it on a SpeechTextPair gives an AlignmentOutput: loss (batch,), in nats per token;
        terms "ctc" and "infeasible" (1 where the transcript does not fit into the frames, whose
        loss is then 0).

    Raises:
        ValueError: on options in conflict, and when the pair lacks token_ids or, tied, its table
            and pad row.

    Source: Graves et al. 2006; the head of its own is OTReg's baseline Base + CTC (arXiv
        2508.08131); the tied form is ours.

    Example:
        >>> table, ids = torch.randn(9, 4), torch.tensor([[1, 2]])
        >>> pair = SpeechTextPair(
        ...     torch.randn(1, 5, 4),
        ...     table[ids],
        ...     token_ids=ids,
        ...     embedding_table=table,
        ...     pad_embedding=table[0],
        ... )
        >>> CTC()(pair).loss.shape
        torch.Size([1])
    """

    def __init__(
        self,
        tied: bool = True,
        temperature: float = 0.1,
        dim: int | None = None,
        vocab_size: int | None = None,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be > 0, got {temperature}")
        if tied and (dim is not None or vocab_size is not None):
            raise ValueError(
                "tied CTC scores against the pair's embedding_table and takes no dim or "
                "vocab_size; leave them out, or pass tied=False for a head of its own"
            )
        if not tied and (dim is None or vocab_size is None):
            raise ValueError(
                f"CTC(tied=False) needs dim and vocab_size for its head, got dim={dim}, "
                f"vocab_size={vocab_size}"
            )
        self.tied = tied
        self.temperature = temperature
        self._has_warned = False
        self.head: nn.Linear | None = None
        if dim is not None and vocab_size is not None:
            self.head = nn.Linear(dim, vocab_size + 1)

    def forward(self, pair: SpeechTextPair) -> AlignmentOutput:
        """Score the pair's speech against its transcript; see the class."""
        if pair.token_ids is None:
            raise ValueError(
                "CTC needs the transcript's token_ids, got None; pass SpeechTextPair(token_ids=…)"
            )
        speech, frame_mask = real_speech(pair)
        text_mask = pair.text_mask
        assert text_mask is not None  # SpeechTextPair fills masks in
        logits, labels, blank = self._scores(pair, speech, text_mask)

        frames_first, num_frames = _left_aligned(logits, frame_mask)
        tokens_first, num_tokens = _left_aligned(labels, text_mask)
        with torch.autocast(device_type=logits.device.type, enabled=False):
            losses = F.ctc_loss(
                frames_first.log_softmax(-1).transpose(0, 1),
                tokens_first,
                num_frames,
                num_tokens,
                blank=blank,
                reduction="none",
                zero_infinity=True,  # an infinite loss would make the gradient NaN
            )
        # Each token takes a frame, and equal neighbours a blank between them.
        repeats = (tokens_first[:, 1:] == tokens_first[:, :-1]).cumsum(1)
        repeats = F.pad(repeats, (1, 0)).gather(1, num_tokens.unsqueeze(1) - 1)
        infeasible = num_tokens + repeats.squeeze(1) > num_frames
        if bool(infeasible.any()) and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "CTC: %d of %d transcripts have more tokens than their frames can spell; their "
                "loss is 0 (said once; the term 'infeasible' counts them all)",
                int(infeasible.sum()),
                len(losses),
            )
        loss = losses / num_tokens
        terms = {"ctc": loss.detach(), "infeasible": infeasible.to(loss.dtype)}
        return AlignmentOutput(loss, terms=terms)

    def _scores(
        self, pair: SpeechTextPair, speech: Tensor, text_mask: Tensor
    ) -> tuple[Tensor, Tensor, int]:
        """The logits (batch, frames, classes), labels (batch, tokens) and the blank's class."""
        assert pair.token_ids is not None
        if self.head is None:
            if pair.embedding_table is None:
                raise ValueError(
                    "tied CTC needs the pair's embedding_table, got None; pass the language "
                    "model's get_input_embeddings().weight, or use CTC(tied=False, dim=…, "
                    "vocab_size=…)"
                )
            vocabulary = pair_vocabulary(pair, pad_class=True)
            assert vocabulary.pad_class is not None
            logits = vocabulary.logits(speech, self.temperature)
            return logits, vocabulary.token_class, vocabulary.pad_class
        blank = self.head.out_features - 1
        labels = torch.where(text_mask, pair.token_ids.long(), 0)
        if bool(((labels < 0) | (labels >= blank)).any()):
            raise ValueError(
                f"token_ids must lie in [0, {blank}), the vocab_size of this CTC head, got up to "
                f"{int(labels.max())}; build it with the tokenizer's vocabulary size"
            )
        logits = self.head(speech.to(self.head.weight.dtype))
        return logits if logits.dtype == torch.float64 else logits.float(), labels, blank


def _left_aligned(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move the real positions to the left, where torch's CTC looks for them; with their number."""
    lengths = mask.sum(1)
    order = torch.argsort(~mask, dim=1, stable=True)
    if values.ndim == 3:
        return values.gather(1, order.unsqueeze(2).expand_as(values)), lengths
    return values.gather(1, order), lengths
