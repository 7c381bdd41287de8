import dataclasses

import numpy as np
import pytest
import torch
from otreg_loop import CASES, DIM, TIGHT, VOCAB, loop_loss, make_pair
from torch import Tensor

from oracles import alone, cosine, unique_loop
from otreg import OTReg, SpeechTextPair
from otreg.transport import sinkhorn


@pytest.mark.parametrize("case", CASES)
def test_loss_and_plan_match_a_float64_loop(case: str) -> None:
    pair, options = make_pair(), CASES[case]
    out = options(pair)
    assert bool(out.converged.all())
    for k in range(3):
        loss, plan = loop_loss(pair, k, options)
        n, m = plan.shape
        np.testing.assert_allclose(out.plan[k, :n, :m].detach(), plan, atol=1e-6)
        assert float(out.loss[k].detach()) == pytest.approx(loss, abs=2e-5)  # 1e-6 in the norms
        assert bool((out.plan[k, n:] == 0).all())
        assert bool((out.plan[k, :, m:] == 0).all())


@pytest.mark.parametrize("temperature", [0.005, 1e-4])
def test_the_smallest_temperatures_do_not_overflow(temperature: float) -> None:
    exact = make_pair()
    single = make_pair(dtype=torch.float32)
    single = dataclasses.replace(
        single,
        **{
            name: getattr(exact, name).detach().float()
            for name in ("speech", "text", "pad_embedding", "embedding_table")
        },
        **{name: getattr(exact, name) for name in ("speech_mask", "text_mask", "token_ids")},
    )
    options = OTReg(epsilon=0.05, temperature=temperature, **TIGHT)
    out = options(dataclasses.replace(single, speech=single.speech.requires_grad_()))
    out.loss.sum().backward()
    assert bool(torch.isfinite(single.speech.grad).all())
    for k in range(3):
        loss, _ = loop_loss(exact, k, options)
        assert float(out.loss[k].detach()) == pytest.approx(loss, rel=1e-3)


def test_every_option_is_reached_by_a_case() -> None:
    reached = {
        field.name
        for field in dataclasses.fields(OTReg)
        if len({getattr(case, field.name) for case in CASES.values()} | {field.default}) > 1
    }
    assert reached | {"unique_threshold"} == {field.name for field in dataclasses.fields(OTReg)}


@pytest.mark.parametrize("threshold", [None, 0.5, 0.999])
def test_threshold_decides_the_number_of_targets(threshold: float | None) -> None:
    pair = make_pair()
    out = OTReg(unique_threshold=threshold, epsilon=0.05)(pair)
    for k in range(3):
        length = int(pair.text_mask[k].sum())
        rows = pair.text[k, :length].numpy()
        expected = length if threshold is None else len(unique_loop(rows, threshold)[0])
        assert int(out.targets.mask[k].sum()) == expected


def with_padding(pair: SpeechTextPair, fill: float) -> SpeechTextPair:
    """The same pair, wider, with fill wherever the masks say padding."""

    def widen(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        wide_mask = torch.nn.functional.pad(mask, (0, 3))
        wide = torch.nn.functional.pad(x.detach(), (0, 0, 0, 3))
        return torch.where(wide_mask.unsqueeze(2), wide, fill), wide_mask

    speech, speech_mask = widen(pair.speech, pair.speech_mask)
    text, text_mask = widen(pair.text, pair.text_mask)
    ids = torch.nn.functional.pad(pair.token_ids, (0, 3))
    return dataclasses.replace(
        pair,
        speech=speech.requires_grad_(),
        text=text,
        speech_mask=speech_mask,
        text_mask=text_mask,
        token_ids=torch.where(text_mask, ids, -100),
    )


@pytest.mark.parametrize("fill", [0.0, 1e6, float("nan"), float("inf")])
@pytest.mark.parametrize("case", ["default", "paper", "vocabulary with pad", "pad mass estimated"])
def test_padding_changes_neither_loss_nor_gradient(case: str, fill: float) -> None:
    pair, options = make_pair(), CASES[case]
    padded = with_padding(pair, fill)
    out, padded_out = options(pair), options(padded)
    torch.testing.assert_close(padded_out.loss, out.loss)
    out.loss.sum().backward()
    padded_out.loss.sum().backward()
    frames = pair.speech.shape[1]
    torch.testing.assert_close(padded.speech.grad[:, :frames], pair.speech.grad)
    assert bool((padded.speech.grad[~padded.speech_mask] == 0).all())


@pytest.mark.parametrize("case", CASES)
def test_batch_equals_single_utterances(case: str) -> None:
    pair, options = make_pair(), CASES[case]
    out = options(pair)
    for k in range(3):
        single = options(alone(pair, k))
        torch.testing.assert_close(single.loss[0], out.loss[k])
        for name, term in single.terms.items():
            torch.testing.assert_close(term[0], out.terms[name][k])


def test_permuting_tokens_permutes_the_plan_and_keeps_the_loss() -> None:
    pair = make_pair(batch=1)
    order = torch.tensor([6, 5, 3, 4, 2, 1, 0])
    options = OTReg.paper(unique_threshold=None, **TIGHT)
    out = options(pair)
    moved = options(
        dataclasses.replace(pair, text=pair.text[:, order], token_ids=pair.token_ids[:, order])
    )
    columns = torch.cat([order, torch.tensor([7])])  # the anchor stays last
    torch.testing.assert_close(moved.plan, out.plan[:, :, columns])
    torch.testing.assert_close(moved.loss, out.loss)


def test_marginals_hold() -> None:
    pair = make_pair()
    out = OTReg.paper(**TIGHT)(pair)
    n = pair.speech_mask.sum(1, keepdim=True)
    m = out.targets.mask.sum(1, keepdim=True)
    torch.testing.assert_close(out.plan.sum(2), pair.speech_mask / n.double())
    torch.testing.assert_close(out.plan.sum(1), out.targets.mask / m.double(), atol=1e-8, rtol=0)


@pytest.mark.parametrize(
    "case", ["paper", "paper unrolled", "relaxed", "entropic", "entropic relaxed"]
)
def test_gradient_with_respect_to_speech_is_exact(case: str) -> None:
    pair = make_pair(batch=2, frames=5, tokens=4)
    options = dataclasses.replace(CASES[case], epsilon=0.2, tol=1e-12)

    def loss(speech: Tensor) -> Tensor:
        return options(dataclasses.replace(pair, speech=speech)).loss

    assert torch.autograd.gradcheck(loss, pair.speech, atol=1e-6)


def test_vocabulary_gradient_through_the_plan_is_exact() -> None:
    pair = make_pair(batch=2, frames=5, tokens=4)
    options = OTReg(epsilon=0.2, plan_gradient="implicit", tol=1e-12, max_iter=20_000)

    def loss(speech: Tensor) -> Tensor:
        return options(dataclasses.replace(pair, speech=speech)).loss

    assert torch.autograd.gradcheck(loss, pair.speech, atol=1e-6)


def test_stopping_the_plan_is_the_gradient_at_a_fixed_plan() -> None:
    pair = make_pair()
    options = OTReg(loss="cost", epsilon=0.05)
    out = options(pair)
    (gradient,) = torch.autograd.grad(out.loss.sum(), pair.speech)
    assert not out.plan.requires_grad
    clean = torch.where(pair.speech_mask.unsqueeze(2), pair.speech, 0.0)
    unit = clean / (clean.square().sum(2, keepdim=True) + 1e-6).sqrt()
    rows = out.targets.embeddings
    rows = rows / (rows.square().sum(2, keepdim=True) + 1e-6).sqrt()
    fixed = (out.plan * (1 - unit @ rows.transpose(1, 2))).sum()
    (expected,) = torch.autograd.grad(fixed, pair.speech)
    torch.testing.assert_close(gradient, expected)


def test_descending_the_loss_makes_frames_into_their_tokens() -> None:
    table = torch.randn(VOCAB, DIM)
    ids = torch.tensor([[1, 2, 3, 4]])
    speech = torch.randn(1, 12, DIM, requires_grad=True)
    optimiser = torch.optim.Adam([speech], lr=0.1)
    for _ in range(150):
        pair = SpeechTextPair(speech, table[ids], token_ids=ids, embedding_table=table)
        optimiser.zero_grad()
        OTReg(position_prior=1.0)(pair).loss.mean().backward()
        optimiser.step()
    scores = (
        torch.nn.functional.normalize(speech[0], dim=1) @ torch.nn.functional.normalize(table).T
    )
    assert scores.argmax(1).tolist() == [i // 3 + 1 for i in range(12)]  # in order, equal shares


def test_without_a_table_the_batch_is_the_vocabulary() -> None:
    pair = make_pair()
    used = pair.token_ids[pair.text_mask].unique()
    relabelled = torch.searchsorted(used, pair.token_ids).clamp(max=len(used) - 1)
    small = dataclasses.replace(
        pair,
        token_ids=relabelled,
        embedding_table=pair.embedding_table[used],
        step_ids=None,
    )
    expected = OTReg()(small).loss
    by_id = OTReg()(dataclasses.replace(pair, embedding_table=None)).loss
    by_row = OTReg()(dataclasses.replace(pair, embedding_table=None, token_ids=None)).loss
    torch.testing.assert_close(by_id, expected)
    torch.testing.assert_close(by_row, expected)


def test_loss_works_under_autocast_with_half_precision_embeddings() -> None:
    pair = make_pair(dtype=torch.float32)
    half = dataclasses.replace(
        pair, speech=pair.speech.detach().bfloat16().requires_grad_(), text=pair.text.bfloat16()
    )
    for options in (OTReg(), OTReg.paper()):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = options(half)
        out.loss.mean().backward()
        assert out.loss.dtype == out.plan.dtype == torch.float32
        assert bool(torch.isfinite(half.speech.grad).all())
        torch.testing.assert_close(out.loss, options(pair).loss, atol=0.1, rtol=0.1)


def test_a_single_target_takes_every_frame() -> None:
    table = torch.randn(VOCAB, DIM)
    ids = torch.full((1, 3), 2)
    speech = torch.randn(1, 5, DIM, requires_grad=True)
    pair = SpeechTextPair(speech, table[ids], token_ids=ids, embedding_table=table)
    out = OTReg.paper(pad_anchor=False)(pair)
    torch.testing.assert_close(out.plan, torch.full((1, 5, 1), 0.2))
    assert float(out.terms["sparsity"]) == 0
    out.loss.sum().backward()
    assert bool(torch.isfinite(speech.grad).all())


@pytest.mark.parametrize("pad_mass", [0.4, "estimate"])
def test_an_utterance_without_an_anchor_of_its_own_keeps_all_mass_on_its_tokens(
    pad_mass: float | str,
) -> None:
    text = torch.randn(2, 3, DIM)
    pair = SpeechTextPair(torch.randn(2, 8, DIM), text, pad_embedding=3 * text[0, 1])
    out = OTReg.paper(pad_mass=pad_mass, **TIGHT)(pair)
    assert out.targets.anchor.any(1).tolist() == [False, True]
    sums = out.plan.sum(1)
    torch.testing.assert_close(sums[0], torch.tensor([1 / 3, 1 / 3, 1 / 3, 0]))
    torch.testing.assert_close(sums.sum(1), torch.ones(2))


def test_fewer_frames_than_targets_still_reach_every_target() -> None:
    speech = torch.randn(1, 2, DIM)
    out = OTReg(loss="cost", **TIGHT)(SpeechTextPair(speech, torch.randn(1, 5, DIM)))
    torch.testing.assert_close(out.plan.sum(1), torch.full((1, 5), 0.2))


def test_sparsity_runs_from_one_target_per_frame_to_none_chosen() -> None:
    rows = torch.eye(4).unsqueeze(0) * 3  # speech on its targets
    sparse = OTReg.paper(pad_anchor=False, epsilon=0.01)(SpeechTextPair(rows, rows))
    assert float(sparse.terms["sparsity"]) < 1e-6
    same = SpeechTextPair(torch.ones(1, 4, 4), rows)
    assert float(OTReg.paper(pad_anchor=False)(same).terms["sparsity"]) == pytest.approx(1.0)


def test_sparsity_gradient_needs_and_gets_the_plan_gradient() -> None:
    pair = make_pair()
    gradients = []
    for weight in (0.0, 1.0):
        loss = OTReg.paper(sparsity_weight=weight, **TIGHT)(pair).loss.sum()
        gradients.append(torch.autograd.grad(loss, pair.speech)[0])
    assert float((gradients[1] - gradients[0]).norm()) > 1e-3


def test_the_plan_of_the_paper_is_a_plain_sinkhorn_of_its_cost() -> None:
    pair = make_pair(batch=1)
    out = OTReg.paper(**TIGHT)(pair)
    cost = torch.tensor(
        [
            [
                [1 - cosine(f, g) for g in out.targets.embeddings[0].numpy()]
                for f in pair.speech[0].detach().numpy()
            ]
        ],
        dtype=torch.float64,
    )
    _, n, m = cost.shape
    a, b = torch.full((1, n), 1 / n).double(), torch.full((1, m), 1 / m).double()
    expected = sinkhorn(cost, a, b, epsilon=0.05, tol=1e-9, max_iter=5000)
    torch.testing.assert_close(out.plan.detach(), expected.plan, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("case", ["default", "paper", "vocabulary with pad"])
def test_text_table_and_pad_row_take_no_gradient(case: str) -> None:
    pair = make_pair()
    table = pair.embedding_table.clone().requires_grad_()
    pair = dataclasses.replace(
        pair, text=table[pair.token_ids], pad_embedding=table[0], embedding_table=table
    )
    CASES[case](pair).loss.sum().backward()
    assert table.grad is None
    assert pair.speech.grad is not None
