import pytest
import torch

from otreg import CTC, AlignmentOutput, OTReg, SpeechTextPair
from otreg.objectives import OBJECTIVES, OnPair, build_objective

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


ON_PAIRS = ("otreg", "otreg_paper", "ctc")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_registered_objective_says_what_it_needs(name: str) -> None:
    objective = build_objective(name, **SIZES)
    assert isinstance(objective, OnPair) is (name in ON_PAIRS)
    assert objective.needs <= {"text", "reference_speech", "reference_text", "step_ids"}
    assert objective.layers == frozenset()


@pytest.mark.parametrize("name", ON_PAIRS)
def test_every_objective_on_pairs_gives_a_loss_per_utterance(name: str) -> None:
    pair = make_pair()
    out = build_objective(name, **SIZES).objective(pair)
    assert out.loss.shape == (2,)
    out.loss.mean().backward()
    assert float(pair.speech.grad.abs().max()) > 0
    assert all(term.shape == (2,) and not term.requires_grad for term in out.terms.values())


def test_presets_and_options_are_what_their_names_say() -> None:
    def built(name: str, options: dict | None = None) -> object:
        return build_objective(name, options, **SIZES).objective

    assert built("otreg") == OTReg()
    assert built("otreg_paper", {"epsilon": 0.1}) == OTReg.paper(epsilon=0.1)
    head = built("ctc", {"tied": False})
    assert isinstance(head, CTC)
    assert head.head.weight.shape == (10, 6)
    assert built("ctc", {"temperature": 0.2}).temperature == 0.2
    assert built("otreg", {"vocabulary": 64}).vocabulary == 64


@pytest.mark.parametrize("setting", ["step", 64])
def test_the_steps_tokens_are_asked_for_where_they_are_used(setting: str | int) -> None:
    for name in ("otreg", "ctc"):
        assert build_objective(name, {"vocabulary": setting}, **SIZES).needs == {"step_ids"}
        assert build_objective(name, {"vocabulary": "all"}, **SIZES).needs == frozenset()
        assert build_objective(name, **SIZES).needs == {"step_ids"}  # a large table has them drawn
    assert build_objective("otreg", {"loss": "cost"}, **SIZES).needs == frozenset()


def test_hidden_layers_are_refused_to_what_needs_a_vocabulary() -> None:
    cost = build_objective("otreg", {"loss": "cost"}, layer=1, **SIZES)
    assert cost.layers == {1}
    for name in ON_PAIRS:
        with pytest.raises(ValueError, match="needs the vocabulary or the pad row"):
            build_objective(name, layer=1, **SIZES)


def test_the_paper_preset_is_the_papers_method() -> None:
    paper = OTReg.paper()
    assert (paper.loss, paper.pad_anchor, paper.rho_target) == ("cost", True, None)
    assert (paper.target_mass, paper.pad_mass, paper.position_prior) == ("uniform", None, 0.0)
    assert paper.plan_gradient != "stop"
    assert paper.sparsity_weight > 0


def test_an_outsiders_objective_needs_no_registration() -> None:
    pair = make_pair()
    objective = build_objective(f"{__name__}:mean_square", {"scale": 2.0}, **SIZES)
    torch.testing.assert_close(
        objective.objective(pair).loss, 2 * pair.speech.square().mean((1, 2))
    )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("otregg", {}, "unknown objective 'otregg'; did you mean 'otreg'"),
        ("otreg", {"epsilom": 1.0}, "'otreg' has no option 'epsilom'; did you mean 'epsilon'"),
        ("otreg_paper", {"epsilom": 1.0}, "no option 'epsilom'; did you mean 'epsilon'"),
        ("ctc", {"temprature": 1.0}, "no option 'temprature'; did you mean 'temperature'"),
        ("nowhere:thing", {}, "'nowhere:thing' cannot be imported .*nowhere"),
        (":thing", {}, "':thing' cannot be imported"),
        (".x:thing", {}, "cannot be imported"),
        ("otreg.pair:Nothing", {}, "cannot be imported .*Nothing"),
        ("otreg", {"epsilon": -1.0}, "epsilon must be a finite number > 0"),
    ],
)
def test_mistakes_are_named_with_the_nearest_known(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_objective(name, options, **SIZES)
