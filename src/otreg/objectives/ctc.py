"""CTC as an objective, with a head of its own or tied to the language model's embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from otreg.objectives.base import AlignmentOutput
from otreg.objectives.log_probabilities import log_probabilities
from otreg.objectives.options import check_positive
from otreg.objectives.vocabulary import check_vocabulary, pair_classes
from otreg.pair import SpeechTextPair

_UNUSED = -1e4  # a log probability of nothing; finite, for infinities make CTC's gradient NaN


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
        vocabulary: the tied scores' classes: "all" rows of the embedding table; "step", the tokens
            of the optimiser step's transcripts; a number k, those and k more, drawn anew each step;
            or "auto", all of a table up to 8192 rows and 2048 drawn ones of a larger one. A head of
            its own always has all.

    Result:
        Calling it on a SpeechTextPair gives an AlignmentOutput: loss (batch,), in nats per token;
        terms "ctc" and "infeasible": 1 where the frames are too few to spell the transcript (one a
        token, and one between equal neighbours). The loss of such an utterance is 0: if many are
        logged, stack fewer frames in the adapter, or leave the fastest speech out.

    Raises:
        ValueError: on options out of range or in conflict, and when the pair lacks token_ids or,
            tied, its table and pad row.

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

    needs_vocabulary = True

    def __init__(
        self,
        tied: bool = True,
        temperature: float = 0.1,
        dim: int | None = None,
        vocab_size: int | None = None,
        vocabulary: str | int = "auto",
    ) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        check_vocabulary(vocabulary)
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
        if not tied and vocabulary not in ("auto", "all"):
            raise ValueError(
                f"vocabulary must be 'all' with tied=False, got {vocabulary!r}: a head of its own "
                "scores all classes; leave it out, or pass tied=True"
            )
        self.tied = tied
        self.temperature = temperature
        self.vocabulary = vocabulary if tied else "all"
        self.head: nn.Linear | None = None
        if dim is not None and vocab_size is not None:
            self.head = nn.Linear(dim, vocab_size + 1)

    @property
    def needs_step_ids(self) -> bool:
        """Whether it scores against the transcripts' tokens of the whole step."""
        return self.vocabulary != "all"

    def forward(self, pair: SpeechTextPair) -> AlignmentOutput:
        """Score the pair's speech against its transcript; see the class."""
        if torch.compiler.is_compiling():  # as OTReg does
            return torch.compiler.disable(self._evaluate)(pair)
        return self._evaluate(pair)

    def _evaluate(self, pair: SpeechTextPair) -> AlignmentOutput:
        if pair.token_ids is None:
            raise ValueError(
                "CTC needs the transcript's token_ids, got None; pass SpeechTextPair(token_ids=…)"
            )
        frame_mask, text_mask = pair.speech_mask, pair.text_mask
        assert frame_mask is not None  # SpeechTextPair fills masks in
        assert text_mask is not None
        logits, labels, blank = self._scores(pair, frame_mask, text_mask)
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
        loss = losses / num_tokens
        terms = {"ctc": loss.detach(), "infeasible": infeasible.to(loss.dtype)}
        return AlignmentOutput(loss, terms=terms)

    def _scores(
        self, pair: SpeechTextPair, frame_mask: Tensor, text_mask: Tensor
    ) -> tuple[Tensor, Tensor, int]:
        """The logits (batch, frames, classes), labels (batch, tokens) and the blank's class."""
        assert pair.token_ids is not None
        if self.head is None:
            return self._tied_scores(pair, frame_mask, text_mask)
        blank = self.head.out_features - 1
        labels = torch.where(text_mask, pair.token_ids.long(), 0)
        if bool(((labels < 0) | (labels >= blank)).any()):
            raise ValueError(
                f"token_ids must lie in [0, {blank}), the vocab_size of this CTC head, got up to "
                f"{int(labels.max())}; build it with the tokenizer's vocabulary size"
            )
        speech = torch.where(frame_mask.unsqueeze(2), pair.speech, 0.0)
        logits = self.head(speech.to(self.head.weight.dtype))
        return logits if logits.dtype == torch.float64 else logits.float(), labels, blank

    def _tied_scores(
        self, pair: SpeechTextPair, frame_mask: Tensor, text_mask: Tensor
    ) -> tuple[Tensor, Tensor, int]:
        """Log probabilities of the utterance's own tokens, the blank and all other classes as one.

        A path that spells the transcript passes through no other class, so CTC's value and gradient
        are those of the whole vocabulary. The class of a token is where its id first stands.
        """
        if pair.embedding_table is None:
            raise ValueError(
                "tied CTC needs the pair's embedding_table, got None; pass the language "
                "model's get_input_embeddings().weight, or use CTC(tied=False, dim=…, "
                "vocab_size=…)"
            )
        among = pair_classes(pair, with_pad=True, setting=self.vocabulary)
        assert among.pad_class is not None
        ids = among.token_class  # (batch, tokens)
        same = (ids.unsqueeze(2) == ids.unsqueeze(1)) & text_mask.unsqueeze(1)
        labels = same.to(torch.uint8).argmax(2)  # the earliest token of the same id
        is_first = text_mask & (labels == torch.arange(ids.shape[1], device=ids.device))
        with_blank = F.pad(ids, (0, 1), value=among.pad_class)
        log_p = log_probabilities(pair.speech, frame_mask, with_blank, among, self.temperature)
        log_p = log_p.masked_fill(~F.pad(is_first, (0, 1), value=True).unsqueeze(1), _UNUSED)
        tiny = torch.finfo(log_p.dtype).tiny
        others = (1 - log_p.exp().sum(2, keepdim=True)).clamp(min=tiny).log()
        return torch.cat([log_p, others], 2), labels, ids.shape[1]


def _left_aligned(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move the real positions to the left, where torch's CTC looks for them; with their number."""
    lengths = mask.sum(1)
    order = torch.argsort(~mask, dim=1, stable=True)
    if values.ndim == 3:
        return values.gather(1, order.unsqueeze(2).expand_as(values)), lengths
    return values.gather(1, order), lengths
