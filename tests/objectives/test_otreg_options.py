import dataclasses
import math

import pytest
import torch
from otreg_loop import DIM, make_pair

from otreg import OTReg, SpeechTextPair
from otreg.objectives.plan import TransportPlan


def test_the_options_of_the_plan_are_those_of_transportplan() -> None:
    ours = {field.name: field.default for field in dataclasses.fields(OTReg)}
    plan = {field.name: field.default for field in dataclasses.fields(TransportPlan)}
    assert {name: ours.get(name) for name in plan} == plan
    assert OTReg().transport == TransportPlan()


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
        ({"vocabulary": "batch"}, "vocabulary must be 'auto', 'all', 'step' .* got 'batch'"),
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
        ({"pad_mass": 0.0, "pad_anchor": True}, r"pad_mass must be None, 'estimate' or a number"),
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
