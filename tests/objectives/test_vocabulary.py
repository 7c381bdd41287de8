import dataclasses
import math

import pytest
import torch

from otreg import CTC, OTReg, SpeechTextPair
from otreg.objectives.vocabulary import pair_classes, rows_like
from otreg.pair import TokenRows

VOCAB, DIM = 60, 8


def make_pair(**changes: object) -> SpeechTextPair:
    torch.manual_seed(1)
    table = torch.randn(VOCAB, DIM)
    ids = torch.tensor([[1, 2, 3], [4, 5, -100]])
    fits = {
        "speech": torch.randn(2, 7, DIM),
        "text": table[ids.clamp(min=0)],
        "text_mask": ids != -100,
        "token_ids": ids,
        "pad_embedding": table[0],
        "embedding_table": table,
    }
    return SpeechTextPair(**(fits | changes))


def test_all_rows_take_part_once() -> None:
    vocabulary = pair_classes(make_pair(), with_pad=True)
    assert vocabulary.members is None
    assert (vocabulary.pad_class, vocabulary.pad_row, vocabulary.left_out) == (0, None, ())
    assert vocabulary.num_classes == VOCAB
    assert pair_classes(make_pair(), with_pad=False).num_classes == VOCAB


def test_the_step_has_its_own_tokens_and_the_pairs() -> None:
    pair = make_pair(step_ids=torch.tensor([0, 9, 12]))
    own = pair_classes(make_pair(), with_pad=True, setting="step")
    step = pair_classes(pair, with_pad=True, setting="step")
    assert own.members.tolist() == [
        0,
        1,
        2,
        3,
        4,
        5,
    ]  # the pad row is a class though it is no token
    assert step.members.tolist() == [0, 1, 2, 3, 4, 5, 9, 12]
    assert step.num_classes == 8
    without = pair_classes(pair, with_pad=False, setting="step")
    assert without.members.tolist() == [0, 1, 2, 3, 4, 5, 9, 12]


def test_drawn_rows_are_new_and_stand_for_the_others() -> None:
    for k in (1, 7, 40):
        vocabulary = pair_classes(make_pair(draw_seed=5), with_pad=True, setting=k)
        drawn = vocabulary.members[-vocabulary.num_drawn :].tolist()
        assert vocabulary.num_drawn == k == len(set(drawn))
        assert not set(drawn) & {0, 1, 2, 3, 4, 5}
        assert vocabulary.drawn_log_weight == pytest.approx(math.log((VOCAB - 6) / k))


def test_further_rows_that_are_the_pad_row_take_no_part() -> None:
    table = torch.randn(VOCAB, DIM)
    table[7], table[30] = table[0], 2 * table[0]
    ids = torch.tensor([[1, 2, 3], [4, 5, -100]])
    fits = {"text": table[ids.clamp(min=0)], "pad_embedding": table[0], "embedding_table": table}
    pair = make_pair(**fits, step_ids=torch.tensor([1, 7]))
    loss = CTC()(pair).loss
    for setting in ("all", "step", 9, VOCAB):
        among = pair_classes(pair, with_pad=True, setting=setting)
        assert (among.pad_class, among.left_out) == (0, (7, 30))
        if among.members is not None:
            assert not set(among.members.tolist()) & {7, 30}
        if setting == 9:
            others = VOCAB - 5 - 3  # neither the tokens nor the pad row and its likes
            assert among.drawn_log_weight == pytest.approx(math.log(others / 9))
    assert among.drawn_log_weight == 0  # every row that can take part does
    assert among.num_classes == VOCAB - 2
    torch.testing.assert_close(CTC(vocabulary=VOCAB)(pair).loss, loss)
    keep = [row for row in range(VOCAB) if row not in (7, 30)]
    fewer = make_pair(**(fits | {"embedding_table": table[keep]}))  # ids 1 to 5 stay what they are
    torch.testing.assert_close(CTC()(fewer).loss, loss)


def test_the_same_seed_draws_the_same_rows_whatever_the_batch() -> None:
    ids = torch.arange(1, 6)
    one = make_pair(step_ids=ids, draw_seed=7)
    part = dataclasses.replace(
        one,
        speech=one.speech[1:],
        text=one.text[1:],
        text_mask=one.text_mask[1:],
        speech_mask=None,
        token_ids=one.token_ids[1:],
    )
    members = [
        pair_classes(pair, with_pad=True, setting=10).members.tolist()
        for pair in (one, part, dataclasses.replace(one, draw_seed=8))
    ]
    assert members[0] == members[1]
    assert members[0] != members[2]
    pair_classes(make_pair(draw_seed=-(2**70)), with_pad=True, setting=10)  # any integer


def test_without_a_seed_every_call_draws_anew_by_torchs_global_generator() -> None:
    pair = make_pair()
    draws = []
    for _ in range(2):
        torch.manual_seed(3)
        draws += [pair_classes(pair, with_pad=True, setting=10).members.tolist() for _ in range(2)]
    assert draws[0] != draws[1]
    assert draws[:2] == draws[2:]
    losses = [float(OTReg(vocabulary=10)(pair).loss.sum()) for _ in range(2)]
    assert losses[0] != losses[1]


def test_every_other_row_is_drawn_about_as_often() -> None:
    counts = torch.zeros(VOCAB)
    for seed in range(540):
        vocabulary = pair_classes(make_pair(draw_seed=seed), with_pad=True, setting=10)
        counts[vocabulary.members[-10:]] += 1
    assert counts[:6].tolist() == [0] * 6
    # 100 expected, with a deviation of 9
    assert 60 < float(counts[6:].min()) <= float(counts[6:].max()) < 140


def test_the_sum_over_classes_is_right_on_average() -> None:
    pair = make_pair()
    unit = torch.nn.functional.normalize(pair.speech[0, 0], dim=0)
    scores = (torch.nn.functional.normalize(pair.embedding_table, dim=1) @ unit / 0.5).double()
    sums = []
    for seed in range(300):
        seeded = dataclasses.replace(pair, draw_seed=seed)
        vocabulary = pair_classes(seeded, with_pad=False, setting=10)
        raised = torch.zeros(len(vocabulary.members))
        raised[-10:] = vocabulary.drawn_log_weight
        sums.append((scores[vocabulary.members] + raised).exp().sum())
    sums = torch.stack(sums)
    error = float(sums.mean() - scores.exp().sum()) / float(sums.std() / len(sums) ** 0.5)
    assert abs(error) < 3


@pytest.mark.parametrize("objective", [OTReg, CTC])
def test_drawing_every_row_is_scoring_all(objective: type) -> None:
    for pair in (make_pair(), make_pair(pad_token_id=0)):
        loss = objective(vocabulary="all")(pair).loss
        torch.testing.assert_close(objective(vocabulary=VOCAB)(pair).loss, loss)
        assert float((objective(vocabulary=5)(pair).loss - loss).abs().max()) > 1e-4


@pytest.mark.parametrize("objective", [OTReg, CTC])
def test_the_steps_tokens_make_micro_batches_equal(objective: type) -> None:
    pair = make_pair(step_ids=torch.arange(1, 6), draw_seed=11)
    for setting in ("all", "step", 9):
        whole = objective(vocabulary=setting)(pair).loss
        for row in (0, 1):
            part = dataclasses.replace(
                pair,
                **{
                    name: getattr(pair, name)[row : row + 1]
                    for name in ("speech", "text", "speech_mask", "text_mask", "token_ids")
                },
            )
            torch.testing.assert_close(objective(vocabulary=setting)(part).loss[0], whole[row])


@pytest.mark.parametrize("objective", [OTReg(), CTC(), OTReg(pad_anchor=True), OTReg.paper()])
def test_a_common_factor_of_the_table_changes_nothing(objective: object) -> None:
    pair = make_pair()
    # As Gemma has it: the model multiplies its rows by a number, the table holds them without.
    smaller = dataclasses.replace(pair, embedding_table=pair.embedding_table / 40)
    torch.testing.assert_close(objective(smaller).loss, objective(pair).loss)


def test_rows_like_finds_directions() -> None:
    table = torch.randn(VOCAB, DIM)
    table[7], table[20], table[21] = 3 * table[4], -table[4], 0.0
    assert rows_like(table, table[4]) == (4, 7)
    assert rows_like(table.bfloat16(), (0.37 * table[4]).bfloat16()) == (4, 7)
    assert rows_like(table, torch.zeros(DIM)) == (21,)
    assert rows_like(table, torch.randn(DIM)) == ()
    near = table[4].clone()
    near[int(near.abs().argmin())] += 0.3  # equal where it is large
    assert rows_like(table, near) == ()
    assert rows_like(torch.randn(5, 2), torch.zeros(2)) == ()


def test_the_pad_token_is_known_by_its_id_or_found() -> None:
    by_id = make_pair(pad_token_id=0)
    for objective in (OTReg(pad_anchor=True), CTC()):
        torch.testing.assert_close(objective(by_id).loss, objective(make_pair()).loss)
    elsewhere = make_pair(pad_embedding=torch.randn(DIM))  # a pad row that is not in the table
    vocabulary = pair_classes(elsewhere, with_pad=True)
    assert (vocabulary.pad_class, vocabulary.num_classes) == (VOCAB, VOCAB + 1)
    step = pair_classes(elsewhere, with_pad=True, setting="step")
    assert (step.pad_class, step.num_classes) == (VOCAB, 6)


@pytest.mark.parametrize("pad_token_id", [None, 0])
def test_token_ids_that_hold_padding_are_refused(pad_token_id: int | None) -> None:
    # text_ids padded on the left while text_mask stays on the right
    ids = torch.tensor([[1, 2, 3], [0, 4, 5]])
    table = make_pair().embedding_table
    shifted = make_pair(token_ids=ids, text=table[ids], pad_token_id=pad_token_id)
    for objective in (OTReg(pad_anchor=True), CTC()):
        with pytest.raises(ValueError, match="same embedding as the pad row"):
            objective(shifted)


def test_a_pad_row_equal_to_a_tokens_is_refused_though_its_id_is_known() -> None:
    pair = make_pair(pad_token_id=0)
    pair.embedding_table[4] = pair.embedding_table[0]
    pair.text[1, 0] = pair.embedding_table[0]
    with pytest.raises(ValueError, match=r"same embedding as the pad row.*of its own"):
        CTC()(pair)


def test_rows_cannot_be_drawn_without_a_table() -> None:
    bare = make_pair(embedding_table=None)
    with pytest.raises(ValueError, match=r"vocabulary=4 draws rows .* got None; .*'step'"):
        OTReg(vocabulary=4)(bare)
    step = OTReg(vocabulary="step")
    torch.testing.assert_close(step(bare).loss, step(make_pair()).loss)


def by_rows(pair: SpeechTextPair) -> TokenRows:
    """The pair's table as a sharded one is read."""
    table = pair.embedding_table
    return TokenRows(lambda ids: table[ids], tuple(table.shape), table.device)


def test_auto_is_all_of_a_small_table_and_2048_drawn_rows_of_a_large_one() -> None:
    assert pair_classes(make_pair(), with_pad=False).members is None
    large = torch.randn(8193, DIM)
    pair = make_pair(embedding_table=large, draw_seed=3)
    assert pair_classes(pair, with_pad=False).num_drawn == 2048
    assert pair_classes(make_pair(embedding_table=large[:8192]), with_pad=False).members is None
    few = make_pair(embedding_table=None, token_ids=None)
    assert pair_classes(few, with_pad=False).members is None  # the batch's tokens are all there is


@pytest.mark.parametrize("objective", [OTReg, CTC])
def test_a_table_by_rows_scores_as_one_in_memory(objective: type) -> None:
    pair = make_pair(pad_token_id=0, draw_seed=3)
    rows = dataclasses.replace(pair, embedding_table=by_rows(pair))
    for setting in ("step", 7):
        expected = objective(vocabulary=setting)(pair).loss
        torch.testing.assert_close(objective(vocabulary=setting)(rows).loss, expected)
    everything = objective(vocabulary="all")(pair).loss  # 2048 are more than there are
    torch.testing.assert_close(objective()(rows).loss, everything)


def test_a_table_by_rows_is_not_read_whole() -> None:
    pair = make_pair(pad_token_id=0)
    rows = dataclasses.replace(pair, embedding_table=by_rows(pair))
    with pytest.raises(ValueError, match="whole embedding table cannot be read"):
        OTReg(vocabulary="all")(rows)
    unknown = dataclasses.replace(rows, pad_token_id=None)
    with pytest.raises(ValueError, match="cannot be searched for the pad row"):
        CTC()(unknown)
