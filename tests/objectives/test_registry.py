import pytest
import torch

from otreg import CTC, AlignmentOutput, OTReg, SpeechTextPair
from otreg.objectives import OBJECTIVES, WeightedSum, build_objective

SIZES = {"dim": 6, "vocab_size": 9}


def make_pair() -> SpeechTextPair:
    table = torch.randn(9, 6)
    ids = torch.randint(1, 9, (2, 3))
    return SpeechTextPair(
        torch.randn(2, 8, 6, requires_grad=True),
        table[ids],
        token_ids=ids,
        pad_embedding=table[0],
        embedding_table=table,
    )


def mean_square(scale: float = 1.0):
    """An outsider's objective."""
    return lambda pair: AlignmentOutput(scale * pair.speech.square().mean((1, 2)))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_registered_objective_gives_a_loss_per_utterance(name: str) -> None:
    pair = make_pair()
    out = build_objective(name, dim=6, vocab_size=9)(pair)
    assert out.loss.shape == (2,)
    out.loss.mean().backward()
    assert float(pair.speech.grad.abs().max()) > 0
    assert all(term.shape == (2,) and not term.requires_grad for term in out.terms.values())


def test_presets_and_options_are_what_their_names_say() -> None:
    assert build_objective("otreg", **SIZES) == OTReg()
    assert build_objective("otreg_paper", {"epsilon": 0.1}, **SIZES) == OTReg.paper(epsilon=0.1)
    head = build_objective("ctc", {"tied": False}, **SIZES)
    assert isinstance(head, CTC)
    assert head.head.weight.shape == (10, 6)
    assert build_objective("ctc", {"temperature": 0.2}, **SIZES).temperature == 0.2


def test_the_paper_preset_is_the_papers_method() -> None:
    paper = OTReg.paper()
    assert (paper.loss, paper.pad_anchor, paper.rho_target) == ("cost", True, None)
    assert (paper.target_mass, paper.pad_mass, paper.position_prior) == ("uniform", None, 0.0)
    assert paper.plan_gradient != "stop"
    assert paper.sparsity_weight > 0


def test_an_outsiders_objective_needs_no_registration() -> None:
    pair = make_pair()
    objective = build_objective(f"{__name__}:mean_square", {"scale": 2.0}, **SIZES)
    torch.testing.assert_close(objective(pair).loss, 2 * pair.speech.square().mean((1, 2)))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("otregg", {}, "unknown objective 'otregg'; did you mean 'otreg'"),
        ("otreg", {"epsilom": 1.0}, "'otreg' has no option 'epsilom'; did you mean 'epsilon'"),
        ("otreg_paper", {"epsilom": 1.0}, "no option 'epsilom'; did you mean 'epsilon'"),
        ("ctc", {"temprature": 1.0}, "no option 'temprature'; did you mean 'temperature'"),
        ("nowhere:thing", {}, "'nowhere:thing' cannot be imported .*nowhere"),
        ("otreg.pair:Nothing", {}, "cannot be imported .*Nothing"),
        ("otreg", {"epsilon": -1.0}, "epsilon must be > 0"),
    ],
)
def test_mistakes_are_named_with_the_nearest_known(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_objective(name, options, **SIZES)


def test_objectives_compose_by_weight() -> None:
    pair = make_pair()
    ctc = CTC(tied=False, dim=6, vocab_size=9)
    both = WeightedSum({"ctc": (ctc, 0.5), "otreg": (OTReg(), 0.3), "off": (OTReg.paper(), 0.0)})
    out = both(pair)
    parts = {"ctc": ctc(pair), "otreg": OTReg()(pair)}
    torch.testing.assert_close(out.loss, 0.5 * parts["ctc"].loss + 0.3 * parts["otreg"].loss)
    for name, part in parts.items():
        torch.testing.assert_close(out.terms[f"{name}/loss"], part.loss.detach())
        for term, value in part.terms.items():
            torch.testing.assert_close(out.terms[f"{name}/{term}"], value)
    assert not any(term.startswith("off/") for term in out.terms)
    torch.testing.assert_close(out.plan, parts["otreg"].plan)
    assert {id(p) for p in both.parameters()} == {id(p) for p in ctc.parameters()}


def test_bad_compositions_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one objective"):
        WeightedSum({})
    with pytest.raises(ValueError, match="the weight of 'otreg' must be finite and >= 0, got -1"):
        WeightedSum({"otreg": (OTReg(), -1.0)})
