import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from oracles import alone, cosine, primal_value, sinkhorn_loop, unique_loop
from otreg import OTReg, SpeechTextPair
from otreg.transport import sinkhorn

VOCAB, DIM = 12, 6
TIGHT = {"tol": 1e-9, "max_iter": 5000}


def make_pair(
    batch: int = 3, frames: int = 11, tokens: int = 7, dtype: torch.dtype = torch.float64
) -> SpeechTextPair:
    """A ragged batch whose transcripts repeat tokens and hold near-equal ones (5 is close to 4)."""
    table = torch.randn(VOCAB, DIM, dtype=dtype)
    table[5] = table[4] + 0.05 * torch.randn(DIM, dtype=dtype)
    ids = torch.randint(1, VOCAB, (batch, tokens))
    ids[0, :4] = torch.tensor([4, 5, 4, 1])
    frame_lengths = torch.randint(2, frames + 1, (batch, 1))
    token_lengths = torch.randint(2, tokens + 1, (batch, 1))
    frame_lengths[0], token_lengths[0] = frames, tokens
    return SpeechTextPair(
        speech=torch.randn(batch, frames, DIM, dtype=dtype).requires_grad_(),
        text=table[ids],
        speech_mask=torch.arange(frames) < frame_lengths,
        text_mask=torch.arange(tokens) < token_lengths,
        token_ids=ids,
        pad_embedding=table[0],
        embedding_table=table,
        step_ids=torch.cat([ids.unique(), torch.tensor([0])]).unique(),  # with the pad row's own id
    )


def loop_loss(pair: SpeechTextPair, k: int, options: OTReg) -> tuple[float, np.ndarray]:
    """The loss of one utterance, written out plainly: the reading of method.md that tests trust."""
    speech = pair.speech[k][pair.speech_mask[k]].detach().numpy()
    text = pair.text[k][pair.text_mask[k]].numpy()
    ids = pair.token_ids[k][pair.text_mask[k]].tolist()
    pad = pair.pad_embedding.numpy()
    rows = np.vstack([text, pad]) if options.pad_anchor else text
    firsts, belongs = unique_loop(rows, options.unique_threshold)
    n, m, length = len(speech), len(firsts), len(text)
    is_anchor = [first == length for first in firsts]

    cost = np.array([[1 - cosine(f, rows[j]) for j in firsts] for f in speech])
    problem = cost.copy()
    for i in range(n):
        for j in range(m):
            places = [t for t in range(length) if belongs[t] == j]
            if options.position_prior and places and not is_anchor[j]:
                apart = min(((i + 0.5) / n - (t + 0.5) / length) ** 2 for t in places)
                problem[i, j] += options.position_prior * apart / options.position_width**2

    counts = np.bincount(belongs[:length], minlength=m) + np.array(is_anchor)
    b = counts if options.target_mass == "count" else np.ones(m)
    b = b / b.sum()
    if options.pad_mass is not None and any(is_anchor):
        j = is_anchor.index(True)
        k_pad = int((cost.argmin(1) == j).sum())
        p = (k_pad + 1) / (n + m) if options.pad_mass == "estimate" else options.pad_mass
        b[j] = 0
        b = b / b.sum() * (1 - p)
        b[j] = p
    a = np.full(n, 1 / n)
    rho = math.inf if options.rho_target is None else options.rho_target
    plan = sinkhorn_loop(problem, a, b, options.epsilon, rho_b=rho, num_iters=50_000)

    q = plan / plan.sum(1, keepdims=True)
    if options.loss == "cost":
        loss = float((plan * cost).sum())
    elif options.loss == "entropic":
        loss = primal_value(plan, problem, a, b, options.epsilon, rho_b=options.rho_target or 0.0)
    else:
        table = pair.embedding_table.numpy()
        take_part = range(VOCAB) if options.vocabulary == "all" else pair.step_ids.tolist()
        labels = [v for v in take_part if v > 0 or not options.pad_anchor]  # row 0 is the pad row
        classes = np.vstack([table[labels], pad]) if options.pad_anchor else table[labels]
        loss = 0.0
        for i in range(n):
            scores = np.array([cosine(speech[i], row) for row in classes]) / options.temperature
            log_p = scores - np.log(np.exp(scores - scores.max()).sum()) - scores.max()
            for j, first in enumerate(firsts):
                label = len(classes) - 1 if is_anchor[j] else labels.index(ids[first])
                loss -= q[i, j] * log_p[label] / n
    if options.sparsity_weight:
        entropy = -(q * np.log(np.maximum(q, 1e-300))).sum(1).mean()
        loss += options.sparsity_weight * (entropy / math.log(m) if m > 1 else 0.0)
    return loss, plan


CASES = {
    "reference solver": OTReg(epsilon=0.05, method="reference", **TIGHT),
    "default": OTReg(epsilon=0.05, **TIGHT),
    "paper": OTReg.paper(**TIGHT),
    "paper unrolled": OTReg.paper(plan_gradient="unrolled", **TIGHT),
    "entropic": OTReg(loss="entropic", epsilon=0.05, **TIGHT),
    "entropic relaxed": OTReg(loss="entropic", epsilon=0.1, rho_target=0.3, **TIGHT),
    "relaxed": OTReg.paper(rho_target=0.1, **TIGHT),
    "by count": OTReg.paper(target_mass="count", **TIGHT),
    "pad mass": OTReg.paper(pad_mass=0.4, **TIGHT),
    "pad mass by count": OTReg.paper(pad_mass=0.4, target_mass="count", **TIGHT),
    "pad mass estimated": OTReg.paper(pad_mass="estimate", **TIGHT),
    "vocabulary with pad": OTReg(pad_anchor=True, epsilon=0.05, temperature=0.2, **TIGHT),
    "step's tokens": OTReg(vocabulary="step", epsilon=0.05, **TIGHT),
    "step's tokens with pad": OTReg(
        vocabulary="step", pad_anchor=True, epsilon=0.05, temperature=0.2, **TIGHT
    ),
    "cost with prior": OTReg.paper(position_prior=0.05, position_width=0.15, **TIGHT),
}


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


def test_transcripts_with_more_tokens_than_frames_are_counted() -> None:
    pair = SpeechTextPair(
        torch.randn(3, 4, DIM),
        torch.randn(3, 5, DIM),
        speech_mask=torch.arange(4) < torch.tensor([[4], [3], [4]]),
        text_mask=torch.arange(5) < torch.tensor([[5], [3], [2]]),
    )
    out = OTReg(loss="cost")(pair)
    assert out.terms["more_tokens_than_frames"].tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        (OTReg(), True),
        (OTReg(loss="cost"), False),
        (OTReg(loss="entropic"), False),
        (OTReg(loss="cost", pad_anchor=True), True),
        (OTReg.paper(), True),
        (OTReg.paper(pad_anchor=False), False),
    ],
)
def test_an_objective_says_whether_it_needs_a_vocabulary(options: OTReg, needed: bool) -> None:
    assert options.needs_vocabulary is needed
    pair = make_pair()
    hidden = dataclasses.replace(  # a hidden layer has neither
        pair, token_ids=None, pad_embedding=None, embedding_table=None, step_ids=None
    )
    if not needed:
        assert bool(torch.isfinite(options(hidden).loss).all())


def test_an_unconverged_plan_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    out = OTReg(epsilon=0.002, tol=1e-8, max_iter=1)(make_pair())
    assert not bool(out.converged.all())
    assert "did not reach a marginal error" in caplog.text
    assert torch.equal(out.terms["unconverged"] == 1, ~out.converged)


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "nll"}, "loss must be one of cost, entropic, vocabulary, got 'nll'"),
        ({"plan_gradient": "yes"}, "plan_gradient must be one of stop, unrolled, implicit"),
        ({"target_mass": "len"}, "target_mass must be one of uniform, count"),
        ({"unique_threshold": 1.5}, r"unique_threshold must be a cosine in \(-1, 1\].*None"),
        ({"epsilon": 0.0}, "epsilon must be a finite number > 0"),
        ({"epsilon": math.inf}, "epsilon must be a finite number > 0, got inf"),
        ({"epsilon": math.nan}, "epsilon must be a finite number > 0, got nan"),
        ({"tol": math.inf}, "tol must be a finite number > 0"),
        ({"temperature": math.inf}, "temperature must be > 0 and finite"),
        ({"temperature": math.nan}, "temperature must be > 0 and finite"),
        ({"position_width": math.inf}, "position_width must be > 0 and finite"),
        ({"position_prior": math.nan}, "position_prior must be >= 0 and finite"),
        ({"position_prior": math.inf}, "position_prior must be >= 0 and finite"),
        (
            {"sparsity_weight": math.inf, "plan_gradient": "implicit"},
            "sparsity_weight must be >= 0",
        ),
        ({"rho_target": math.inf}, "rho_target must be a finite number > 0.*None"),
        ({"rho_target": math.nan}, "rho_target must be a finite number > 0"),
        (
            {"plan_gradient": "unrolled", "method": "compiled"},
            "method 'compiled' has no unrolled gradient; pass one of .*'auto'",
        ),
        ({"vocabulary": "batch"}, "vocabulary must be 'all', 'step' .* got 'batch'"),
        ({"vocabulary": -1}, "vocabulary must be .* a number >= 0.* got -1"),
        ({"vocabulary": True}, "vocabulary must be .* got True"),
        ({"tol": -1.0}, "tol must be a finite number > 0"),
        ({"max_iter": 0}, "max_iter must be a whole number >= 1"),
        ({"rho_target": 0.0}, "rho_target must be .* got 0.0; .* collapse: see the ablation"),
        ({"rho_target": -0.1}, "rho_target must be a finite number > 0.*None"),
        ({"temperature": 0.0}, "temperature must be > 0"),
        ({"position_width": 0.0}, "position_width must be > 0"),
        ({"position_prior": -1.0}, "position_prior must be >= 0"),
        ({"sparsity_weight": -1.0}, "sparsity_weight must be >= 0"),
        ({"sparsity_weight": 0.1}, "sparsity_weight > 0 needs plan_gradient 'unrolled' or"),
        ({"pad_mass": 0.2}, "pad_mass needs pad_anchor=True"),
        ({"pad_mass": 1.0, "pad_anchor": True}, r"pad_mass must be None, 'estimate' or a number"),
        ({"pad_mass": "auto", "pad_anchor": True}, "pad_mass must be None.*got 'auto'"),
        (
            {"loss": "entropic", "plan_gradient": "implicit"},
            "plan_gradient must be 'stop' with loss='entropic'",
        ),
    ],
)
def test_options_out_of_range_or_in_conflict_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OTReg(**options)


def test_what_the_pair_lacks_is_named() -> None:
    pair = make_pair()
    bare = dataclasses.replace(pair, pad_embedding=None)
    with pytest.raises(ValueError, match="pad_anchor=True needs the pair's pad_embedding"):
        OTReg.paper()(bare)
    with pytest.raises(ValueError, match="token_ids are needed to find the transcript"):
        OTReg()(dataclasses.replace(pair, token_ids=None))
    unpadded = dataclasses.replace(pair, pad_embedding=pair.embedding_table[4])
    with pytest.raises(ValueError, match=r"same embedding as the pad row.*of its own"):
        OTReg(pad_anchor=True)(unpadded)


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
