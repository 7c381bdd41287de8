import dataclasses
import math

import pytest
import torch
from torch import Tensor

from oracles import cosine
from otreg import SpeechTextPair
from otreg.objectives.log_probabilities import log_probabilities
from otreg.objectives.vocabulary import Classes, pair_classes

VOCAB, DIM = 23, 6


def make_pair(dtype: torch.dtype = torch.float64) -> SpeechTextPair:
    """Two utterances, ragged on both sides; row 4 of the table is the pad row."""
    table = torch.randn(VOCAB, DIM, dtype=dtype)
    ids = torch.tensor([[1, 2, 1, 9], [22, 7, -100, -100]])
    mask = ids != -100
    return SpeechTextPair(
        speech=torch.randn(2, 5, DIM, dtype=dtype).requires_grad_(),
        text=table[ids.clamp(min=0)],
        speech_mask=torch.tensor([[True] * 5, [False, True, True, False, True]]),
        text_mask=mask,
        token_ids=ids,
        pad_embedding=table[4],
        embedding_table=table,
        step_ids=torch.tensor([1, 2, 7, 9, 13, 22]),
        draw_seed=3,
    )


def dense_loop(
    pair: SpeechTextPair, vocabulary: Classes, classes: Tensor, temperature: float
) -> Tensor:
    """Log softmax written out plainly, one score at a time, over the classes that take part."""
    table = pair.embedding_table.double().numpy()
    taking_part = range(VOCAB) if vocabulary.members is None else vocabulary.members.tolist()
    rows = {v: table[v] for v in taking_part if v not in vocabulary.left_out}
    raised = dict.fromkeys(rows, 0.0)
    if vocabulary.num_drawn:
        for v in vocabulary.members.tolist()[-vocabulary.num_drawn :]:
            raised[v] = vocabulary.drawn_log_weight
    if vocabulary.pad_row is not None:
        rows[VOCAB], raised[VOCAB] = vocabulary.pad_row.double().numpy(), 0.0
    expected = torch.zeros(*pair.speech.shape[:2], classes.shape[1], dtype=torch.float64)
    for b, i in pair.speech_mask.nonzero().tolist():
        frame = pair.speech[b, i].detach().double().numpy()
        scores = {v: cosine(frame, row) / temperature + raised[v] for v, row in rows.items()}
        top = max(scores.values())
        log_sum = top + math.log(sum(math.exp(score - top) for score in scores.values()))
        for c, v in enumerate(classes[b].tolist()):
            expected[b, i, c] = scores[v] - log_sum
    return expected


# The row of a pad class stands in the table, or elsewhere; small temperatures take a running maximum.
PADS = ("none", "row", "elsewhere")


def classes_of(pair: SpeechTextPair, pad: str, setting: str | int) -> tuple[Classes, int]:
    """The classes, and one to look at beside the tokens: the pad row's, where there is one."""
    if pad == "elsewhere":
        pair = dataclasses.replace(pair, pad_embedding=torch.arange(DIM).to(pair.text.dtype))
    among = pair_classes(pair, with_pad=pad != "none", setting=setting)
    return among, {"none": 2, "row": 4, "elsewhere": VOCAB}[pad]


@pytest.mark.parametrize("setting", ["all", "step", 0, 1, 5, 1000])
@pytest.mark.parametrize("pad", PADS)
@pytest.mark.parametrize("temperature", [0.3, 0.005])
def test_values_match_a_dense_float64_loop(
    setting: str | int, pad: str, temperature: float
) -> None:
    pair = make_pair()
    among, further = classes_of(pair, pad, setting)
    classes = torch.tensor([[1, 9, further], [7, 7, 22]])
    values = log_probabilities(pair.speech, pair.speech_mask, classes, among, temperature)
    expected = dense_loop(pair, among, classes, temperature)
    # Cosines differ by the 1e-6 under the root of a frame's norm.
    torch.testing.assert_close(values.detach(), expected, atol=1e-5 / temperature, rtol=0)


@pytest.mark.parametrize("setting", ["all", "step", 5])
@pytest.mark.parametrize("pad", PADS)
@pytest.mark.parametrize("temperature", [0.2, 0.03])
def test_gradient_is_exact(setting: str | int, pad: str, temperature: float) -> None:
    pair = make_pair()
    among, further = classes_of(pair, pad, setting)
    classes = torch.tensor([[1, further, 1], [7, 22, 22]])

    def values(speech: Tensor) -> Tensor:
        return log_probabilities(speech, pair.speech_mask, classes, among, temperature, chunk=7)

    assert torch.autograd.gradcheck(values, pair.speech)


@pytest.mark.parametrize("setting", ["all", "step", 5])
@pytest.mark.parametrize("pad", PADS)
@pytest.mark.parametrize("temperature", [0.05, 0.01])
@pytest.mark.parametrize("chunk", [1, 7, VOCAB, None])
def test_the_chunks_size_changes_nothing(
    setting: str | int, pad: str, temperature: float, chunk: int | None
) -> None:
    pair = make_pair()
    among, further = classes_of(pair, pad, setting)
    classes = torch.tensor([[1, further], [7, 22]])
    outcomes = []
    for size in (1000, chunk):
        speech = pair.speech.detach().requires_grad_()
        values = log_probabilities(speech, pair.speech_mask, classes, among, temperature, size)
        (gradient,) = torch.autograd.grad(values.square().sum(), speech)
        outcomes.append((values.detach(), gradient))
    torch.testing.assert_close(outcomes[0], outcomes[1])


@pytest.mark.parametrize("fill", [float("nan"), float("inf"), 1e6])
def test_what_stands_at_padding_changes_nothing(fill: float) -> None:
    pair = make_pair()
    vocabulary = pair_classes(pair, with_pad=True)
    classes = torch.tensor([[1, 9], [7, 22]])
    clean = torch.where(pair.speech_mask.unsqueeze(2), pair.speech.detach(), 0.0)
    outcomes = []
    for value in (0.0, fill):
        speech = torch.where(pair.speech_mask.unsqueeze(2), clean, value).requires_grad_()
        values = log_probabilities(speech, pair.speech_mask, classes, vocabulary, 0.05)
        (gradient,) = torch.autograd.grad(values.sum(), speech)
        assert bool((values[~pair.speech_mask] == 0).all())
        assert bool((gradient[~pair.speech_mask] == 0).all())
        outcomes.append((values.detach(), gradient))
    torch.testing.assert_close(outcomes[0], outcomes[1])


def test_a_bfloat16_table_gives_what_its_rows_give_in_float32() -> None:
    pair = make_pair(torch.float32)
    half = pair.embedding_table.bfloat16()
    outcomes = []
    for table in (half, half.float()):
        part = dataclasses.replace(pair, embedding_table=table, pad_embedding=table[4])
        vocabulary = pair_classes(part, with_pad=True, setting=5)
        values = log_probabilities(
            pair.speech, pair.speech_mask, torch.tensor([[1, 9], [7, 22]]), vocabulary, 0.05
        )
        assert values.dtype == torch.float32
        outcomes.append((values.detach(), torch.autograd.grad(values.sum(), pair.speech)[0]))
    torch.testing.assert_close(outcomes[0], outcomes[1])


def test_half_precision_speech_gets_a_gradient_of_its_own_dtype() -> None:
    pair = make_pair(torch.float32)
    vocabulary = pair_classes(pair, with_pad=True)
    classes = torch.tensor([[1, 9], [7, 22]])
    half = pair.speech.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = log_probabilities(half, pair.speech_mask, classes, vocabulary, 0.05)
    values.sum().backward()
    exact = half.detach().float().requires_grad_()
    expected = log_probabilities(exact, pair.speech_mask, classes, vocabulary, 0.05)
    expected.sum().backward()
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, expected)
    assert half.grad.dtype == torch.bfloat16
    torch.testing.assert_close(half.grad.float(), exact.grad, rtol=1e-2, atol=1e-2)


def test_random_problems_match_autograd_of_a_dense_log_softmax() -> None:
    for seed in range(25):
        torch.manual_seed(seed)
        batch, frames, dim, vocab, n = (int(torch.randint(1, top, ())) for top in (4, 9, 8, 40, 6))
        table = torch.randn(vocab, dim, dtype=torch.float64)
        mask = torch.rand(batch, frames) < 0.7
        mask[:, 0] = True
        classes = torch.randint(0, vocab, (batch, n))
        vocabulary = Classes(table, classes)
        speech = torch.randn(batch, frames, dim, dtype=torch.float64).requires_grad_()
        weight = torch.randn(batch, frames, n, dtype=torch.float64)
        temperature = float(torch.rand(()) + 0.01)
        chunk = int(torch.randint(1, vocab + 2, ()))
        values = log_probabilities(speech, mask, classes, vocabulary, temperature, chunk)
        unit = speech / (speech.square().sum(2, keepdim=True) + 1e-6).sqrt()
        rows = torch.nn.functional.normalize(table, dim=1)
        dense = (unit @ rows.T / temperature).log_softmax(2)
        dense = dense.gather(2, classes.unsqueeze(1).expand(-1, frames, -1))
        dense = torch.where(mask.unsqueeze(2), dense, 0.0)
        torch.testing.assert_close(values, dense)
        (gradient,) = torch.autograd.grad((values * weight).sum(), speech)
        (expected,) = torch.autograd.grad((dense * weight).sum(), speech)
        torch.testing.assert_close(gradient, expected)


def test_no_copy_of_the_table_is_made() -> None:
    pair = make_pair(torch.float32)
    vocabulary = pair_classes(pair, with_pad=True)
    assert vocabulary.table.data_ptr() == pair.embedding_table.data_ptr()
    sizes = [len(rows) for rows, _ in vocabulary.chunks(5)]
    assert sizes == [5, 5, 5, 5, 3]
    starts = [rows.data_ptr() for rows, _ in vocabulary.chunks(5)]
    step = 5 * DIM * pair.embedding_table.element_size()
    assert starts == [vocabulary.table.data_ptr() + step * i for i in range(5)]


def test_nothing_is_kept_where_no_gradient_is_asked() -> None:
    pair = make_pair()
    vocabulary = pair_classes(pair, with_pad=False)
    with torch.no_grad():
        values = log_probabilities(
            pair.speech, pair.speech_mask, torch.tensor([[1], [7]]), vocabulary, 0.05
        )
    assert values.grad_fn is None
