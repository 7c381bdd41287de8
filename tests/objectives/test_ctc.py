import dataclasses
import itertools
import math

import pytest
import torch
from torch import Tensor

from oracles import alone
from otreg import CTC, SpeechTextPair

VOCAB, DIM = 5, 6


def make_pair(lengths: tuple[tuple[int, int], ...] = ((6, 3), (4, 2), (5, 1))) -> SpeechTextPair:
    """A ragged batch of (frames, tokens); id 0 is the pad row."""
    batch, frames, tokens = len(lengths), max(n for n, _ in lengths), max(m for _, m in lengths)
    table = torch.randn(VOCAB, DIM, dtype=torch.float64)
    ids = torch.randint(1, VOCAB, (batch, tokens))
    return SpeechTextPair(
        speech=torch.randn(batch, frames, DIM, dtype=torch.float64).requires_grad_(),
        text=table[ids],
        speech_mask=torch.arange(frames) < torch.tensor([[n] for n, _ in lengths]),
        text_mask=torch.arange(tokens) < torch.tensor([[m] for _, m in lengths]),
        token_ids=ids,
        pad_embedding=table[0],
        embedding_table=table,
    )


def spelled(path: tuple[int, ...], blank: int) -> list[int]:
    """What a path says: repeats folded, blanks dropped."""
    return [label for label, _ in itertools.groupby(path) if label != blank]


def brute_force(log_p: Tensor, labels: list[int], blank: int) -> float:
    """The negative log probability of all paths that spell the labels, by listing every path."""
    frames, classes = log_p.shape
    total = 0.0
    for path in itertools.product(range(classes), repeat=frames):
        if spelled(path, blank) == labels:
            total += math.exp(sum(float(log_p[i, c]) for i, c in enumerate(path)))
    return -math.log(total)


def test_tied_loss_is_the_probability_of_all_paths_that_spell_the_transcript() -> None:
    pair = make_pair(((4, 2), (3, 1)))
    loss = CTC(temperature=0.3)(pair).loss.detach()
    table = torch.nn.functional.normalize(pair.embedding_table, dim=1)
    for k, (n, m) in enumerate(((4, 2), (3, 1))):
        unit = torch.nn.functional.normalize(pair.speech[k, :n].detach(), dim=1)
        log_p = (unit @ table.T / 0.3).log_softmax(1)  # the pad row, class 0, is the blank
        expected = brute_force(log_p, pair.token_ids[k, :m].tolist(), blank=0) / m
        assert float(loss[k]) == pytest.approx(expected, abs=1e-5)


def test_own_head_loss_is_the_probability_of_all_paths() -> None:
    pair = make_pair(((4, 2), (3, 1)))
    ctc = CTC(tied=False, dim=DIM, vocab_size=VOCAB).double()
    loss = ctc(pair).loss.detach()
    for k, (n, m) in enumerate(((4, 2), (3, 1))):
        log_p = ctc.head(pair.speech[k, :n]).log_softmax(1).detach()
        expected = brute_force(log_p, pair.token_ids[k, :m].tolist(), blank=VOCAB) / m
        assert float(loss[k]) == pytest.approx(expected, abs=1e-9)


def test_tied_gradient_is_exact() -> None:
    pair = make_pair()

    def loss(speech: Tensor) -> Tensor:
        return CTC()(dataclasses.replace(pair, speech=speech)).loss

    assert torch.autograd.gradcheck(loss, pair.speech)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("fill", [0.0, 1e6, float("nan"), float("inf")])
def test_padding_changes_neither_loss_nor_gradient(tied: bool, fill: float) -> None:
    pair = make_pair()
    ctc = CTC() if tied else CTC(tied=False, dim=DIM, vocab_size=VOCAB).double()
    mask = torch.nn.functional.pad(pair.speech_mask, (2, 3))  # on both sides
    wide = torch.nn.functional.pad(pair.speech.detach(), (0, 0, 2, 3))
    wide = torch.where(mask.unsqueeze(2), wide, fill).requires_grad_()
    padded = dataclasses.replace(
        pair,
        speech=wide,
        speech_mask=mask,
        token_ids=torch.where(pair.text_mask, pair.token_ids, -100),
    )
    out, padded_out = ctc(pair), ctc(padded)
    torch.testing.assert_close(padded_out.loss, out.loss)
    (expected,) = torch.autograd.grad(out.loss.sum(), pair.speech)
    (gradient,) = torch.autograd.grad(padded_out.loss.sum(), wide)
    torch.testing.assert_close(gradient[mask], expected[pair.speech_mask])
    assert bool((gradient[~mask] == 0).all())


@pytest.mark.parametrize("tied", [True, False])
def test_batch_equals_single_utterances(tied: bool) -> None:
    pair = make_pair()
    ctc = CTC() if tied else CTC(tied=False, dim=DIM, vocab_size=VOCAB).double()
    loss = ctc(pair).loss
    for k in range(3):
        torch.testing.assert_close(ctc(alone(pair, k)).loss[0], loss[k])


def test_a_transcript_that_cannot_fit_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    pair = make_pair(((6, 3), (2, 3), (3, 3), (3, 3)))
    pair.token_ids[2:] = torch.tensor([[1, 2, 1], [1, 1, 2]])  # the last needs a blank: 4 frames
    out = CTC()(pair)
    assert out.terms["infeasible"].tolist() == [0.0, 1.0, 0.0, 1.0]
    assert ((out.loss == 0).tolist()) == [False, True, False, True]
    assert not caplog.records  # the term is logged with every other; a warning says nothing more
    out.loss.sum().backward()
    assert bool(torch.isfinite(pair.speech.grad).all())


def dense_ctc(pair: SpeechTextPair, speech: Tensor, temperature: float) -> Tensor:
    """Torch's CTC over a dense log softmax of the whole vocabulary, one utterance at a time."""
    # The blank is class 0, the pad row: the table's own first row, or one before it.
    in_table = bool((pair.embedding_table[0] == pair.pad_embedding).all())
    rows = pair.embedding_table
    if not in_table:
        rows = torch.cat([pair.pad_embedding.unsqueeze(0), rows])
    rows = torch.nn.functional.normalize(rows, dim=1)
    losses = []
    for k in range(len(speech)):
        frames = speech[k, pair.speech_mask[k]]
        unit = frames / (frames.square().sum(1, keepdim=True) + 1e-6).sqrt()
        labels = pair.token_ids[k, pair.text_mask[k]] + (not in_table)
        loss = torch.nn.functional.ctc_loss(
            (unit @ rows.T / temperature).log_softmax(1).unsqueeze(1),
            labels.unsqueeze(0),
            torch.tensor([len(frames)]),
            torch.tensor([len(labels)]),
            reduction="none",
            zero_infinity=True,
        )
        losses.append(loss[0] / len(labels))
    return torch.stack(losses)


def test_tied_loss_and_gradient_are_those_of_a_dense_softmax() -> None:
    for seed in range(30):
        torch.manual_seed(seed)
        vocab, dim = int(torch.randint(2, 12, ())), int(torch.randint(2, 7, ()))
        batch, frames, tokens = (int(torch.randint(1, top, ())) for top in (5, 12, 6))
        table = torch.randn(vocab, dim, dtype=torch.float64)
        in_table = seed % 2
        ids = torch.randint(in_table, vocab, (batch, tokens))  # few classes, so many repeats
        speech_mask, text_mask = torch.rand(batch, frames) < 0.8, torch.rand(batch, tokens) < 0.8
        speech_mask[:, 0] = text_mask[:, -1] = True
        pair = SpeechTextPair(
            torch.randn(batch, frames, dim, dtype=torch.float64).requires_grad_(),
            table[ids],
            speech_mask,
            text_mask,
            torch.where(text_mask, ids, -100),
            table[0] if in_table else torch.randn(dim, dtype=torch.float64),
            table,
        )
        temperature = float(0.02 + torch.rand(()))
        loss = CTC(temperature=temperature)(pair).loss
        expected = dense_ctc(pair, pair.speech, temperature)
        torch.testing.assert_close(loss, expected)
        weight = torch.randn(batch, dtype=torch.float64)
        (gradient,) = torch.autograd.grad((loss * weight).sum(), pair.speech)
        (expected,) = torch.autograd.grad((expected * weight).sum(), pair.speech)
        torch.testing.assert_close(gradient, expected)


def test_repeats_in_padding_are_not_counted() -> None:
    pair = make_pair(((2, 2), (6, 6)))
    pair.token_ids[0] = torch.tensor([1, 2, 2, 2, 2, 2])  # the mask ends it after "1 2", which fits
    out = CTC()(pair)
    assert out.terms["infeasible"].tolist()[0] == 0
    assert float(out.loss[0].detach()) > 0


def test_text_may_be_padded_on_the_left() -> None:
    pair = make_pair()

    def left(x: Tensor) -> Tensor:
        moved = torch.full_like(x, -100)
        for row, source, mask in zip(moved, x, pair.text_mask, strict=True):
            row[len(row) - int(mask.sum()) :] = source[mask]
        return moved

    ids = left(pair.token_ids)
    moved = dataclasses.replace(pair, token_ids=ids, text_mask=ids != -100, text=left(pair.text))
    torch.testing.assert_close(CTC()(moved).loss, CTC()(pair).loss)


def test_only_a_head_of_its_own_has_parameters() -> None:
    assert not list(CTC().parameters())
    ctc = CTC(tied=False, dim=DIM, vocab_size=VOCAB)
    assert sum(p.numel() for p in ctc.parameters()) == (VOCAB + 1) * (DIM + 1)
    pair = dataclasses.replace(make_pair(), embedding_table=None, pad_embedding=None)
    ctc.double()(pair).loss.sum().backward()
    assert ctc.head.weight.grad is not None


def test_loss_is_float32_under_autocast() -> None:
    pair = make_pair()
    single = dataclasses.replace(pair, speech=pair.speech.detach().float().requires_grad_())
    for ctc in (CTC(), CTC(tied=False, dim=DIM, vocab_size=VOCAB)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = ctc(single).loss
        loss.sum().backward()
        assert loss.dtype in (torch.float32, torch.float64)
        assert bool(torch.isfinite(single.speech.grad).all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature must be > 0"),
        ({"temperature": math.inf}, "temperature must be > 0 and finite"),
        ({"vocabulary": "some"}, "vocabulary must be 'auto', 'all', 'step'"),
        (
            {"tied": False, "dim": 4, "vocab_size": 5, "vocabulary": "step"},
            "vocabulary must be 'all' with tied=False, got 'step'",
        ),
        ({"dim": 4}, "tied CTC .* takes no dim or vocab_size"),
        ({"tied": False, "dim": 4}, r"needs dim and vocab_size .* got dim=4, vocab_size=None"),
    ],
)
def test_options_in_conflict_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CTC(**options)


def test_what_the_pair_lacks_is_named() -> None:
    pair = make_pair()
    with pytest.raises(ValueError, match="CTC needs the transcript's token_ids"):
        CTC()(dataclasses.replace(pair, token_ids=None))
    with pytest.raises(ValueError, match="tied CTC needs the pair's embedding_table"):
        CTC()(dataclasses.replace(pair, embedding_table=None))
    with pytest.raises(ValueError, match="pad_embedding is needed for the class of silence"):
        CTC()(dataclasses.replace(pair, pad_embedding=None))
    with pytest.raises(ValueError, match=r"token_ids must lie in \[0, 2\), the vocab_size"):
        CTC(tied=False, dim=DIM, vocab_size=2).double()(pair)
