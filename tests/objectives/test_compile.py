"""What works under torch.compile: the pair is part of a graph, an objective runs between two."""

import dataclasses

import pytest
import torch
from torch import Tensor

from otreg import CTC, OTReg, SpeechTextPair

# Torch's own, as it goes on behind a cut; the suite makes errors of warnings.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")

VOCAB, DIM = 12, 6


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch._dynamo.reset()


def parts() -> dict[str, Tensor]:
    table = torch.randn(VOCAB, DIM)
    ids = torch.randint(1, VOCAB, (2, 4))
    return {"speech": torch.randn(2, 9, DIM), "ids": ids, "table": table}


def pair_of(speech: Tensor, ids: Tensor, table: Tensor) -> SpeechTextPair:
    return SpeechTextPair(
        speech,
        table[ids],
        text_mask=torch.ones_like(ids, dtype=torch.bool),
        token_ids=ids,
        pad_embedding=table[0],
        embedding_table=table,
        pad_token_id=0,
        draw_seed=0,
    )


def test_making_a_pair_is_one_graph() -> None:
    def through(speech: Tensor, ids: Tensor, table: Tensor) -> Tensor:
        pair = pair_of(2 * speech, ids, table)
        return (pair.speech.sum() + pair.text.sum()) * pair.speech_mask.sum()

    given = parts()
    compiled = torch.compile(through, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(**given), through(**given))


def test_shapes_are_refused_inside_a_graph_too() -> None:
    given = parts()

    def through(speech: Tensor, ids: Tensor, table: Tensor) -> Tensor:
        return pair_of(speech[0], ids, table).speech

    with pytest.raises(ValueError, match=r"speech must be \(batch, frames, dim\)"):
        torch.compile(through, backend="eager")(**given)


@pytest.mark.parametrize(
    "objective", [OTReg(), OTReg(pad_anchor=True, vocabulary=3), OTReg.paper(), CTC()]
)
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_step_gives_the_loss_and_gradient_of_an_eager_one(
    objective: object, backend: str
) -> None:
    given = parts()
    adapter = torch.nn.Linear(DIM, DIM)

    def step(speech: Tensor, ids: Tensor, table: Tensor) -> Tensor:
        return objective(pair_of(adapter(speech).tanh(), ids, table)).loss.mean() + 1

    outcomes = []
    for function in (step, torch.compile(step, backend=backend)):
        adapter.zero_grad()
        loss = function(**given)
        loss.backward()
        outcomes.append((loss.detach(), adapter.weight.grad.clone()))
    torch.testing.assert_close(outcomes[0], outcomes[1])


def test_an_objective_cuts_the_graph_once_and_is_not_traced() -> None:
    given = parts()

    def step(speech: Tensor, ids: Tensor, table: Tensor) -> Tensor:
        return OTReg()(pair_of(2 * speech, ids, table)).loss.mean() + 1

    graphs = []

    def backend(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append(graph)
        return graph.forward

    torch.compile(step, backend=backend)(**given)
    assert 1 <= len(graphs) <= 2  # before and behind; nothing of the objective between them
    assert not any("bmm" in str(node.target) for graph in graphs for node in graph.graph.nodes)


def test_the_checks_are_back_outside_of_a_graph() -> None:
    given = parts()
    given["ids"][0, 0] = VOCAB
    pair = dataclasses.replace(pair_of(**{**given, "ids": given["ids"] % VOCAB}))
    with pytest.raises(ValueError, match="token_ids must lie in"):
        dataclasses.replace(pair, token_ids=given["ids"])
