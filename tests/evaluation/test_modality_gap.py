"""The gap measures against closed forms, a plain loop, and padding of every kind."""

import math

import pytest
import torch

from otreg.evaluation.layer_gap import spearman_with_position
from otreg.evaluation.measures import GAP_MEASURES, MEASURES
from otreg.evaluation.modality_gap import ModalityGap


def measure(speech, ids, table, *, lengths=None, text_lengths=None, **options):
    """The measures of one batch, lengths counted in frames and tokens."""
    batch, frames, _ = speech.shape
    lengths = torch.tensor(lengths or [frames] * batch)
    text_lengths = torch.tensor(text_lengths or [ids.shape[1]] * batch)
    gap = ModalityGap(table, **options)
    gap.update(
        speech,
        torch.arange(frames) < lengths[:, None],
        ids,
        torch.arange(ids.shape[1]) < text_lengths[:, None],
    )
    return gap.compute()


def test_speech_that_equals_its_transcript_closes_every_gap():
    table = torch.eye(6)
    ids = torch.tensor([[1, 2, 3], [4, 5, 1]])
    values = measure(table[ids], ids, table)
    for name in ("coverage", "nearest_token", "best_cosine", "alignment_path_score"):
        assert values[name] == 1.0
    for name in ("alignment_monotonicity", "retrieval_pooled_top1", "retrieval_late_mrr"):
        assert values[name] == pytest.approx(1.0)
    assert values["centroid_distance"] == 0.0
    assert values["centroid_distance_unit"] == 0.0
    assert values["norm_ratio"] == 1.0
    assert values["collapse"] == values["collapse_text"]
    assert (values["num_utterances"], values["num_frames"], values["num_tokens"]) == (2, 6, 6)


def test_coverage_counts_distinct_tokens_and_needs_the_whole_vocabulary():
    table = torch.eye(5)
    ids = torch.tensor([[1, 1, 2, 3]])  # three distinct tokens
    speech = table[torch.tensor([[1, 1, 2, 4]])]  # 3 is missed, 4 is not in the transcript
    values = measure(speech, ids, table)
    assert values["coverage"] == pytest.approx(2 / 3)
    assert values["nearest_token"] == pytest.approx(3 / 4)


def test_collapsed_frames_score_high_on_nearest_token_and_low_on_coverage():
    table = torch.eye(4)
    ids = torch.tensor([[0, 1, 2, 3]])
    values = measure(table[torch.zeros(1, 8, dtype=torch.long)], ids, table)
    assert values["nearest_token"] == values["best_cosine"] == values["collapse"] == 1.0
    assert values["coverage"] == 1 / 4
    assert values["alignment_monotonicity"] == 0.0


def test_best_cosine_and_path_score_have_their_closed_form():
    table = torch.eye(3)
    ids = torch.tensor([[0, 1]])
    angle = math.pi / 6
    speech = torch.tensor([[[math.cos(angle), math.sin(angle), 0.0], [0.0, 0.0, 7.0]]])
    values = measure(speech, ids, table)
    assert values["best_cosine"] == pytest.approx((math.cos(angle) + 0.0) / 2)
    assert values["alignment_path_score"] == pytest.approx((math.cos(angle) + math.sin(angle)) / 2)


def test_centroid_distance_is_in_token_norms_and_the_unit_form_ignores_scale():
    table = 2 * torch.eye(2)  # every token has norm 2
    ids = torch.tensor([[0]])
    values = measure(torch.tensor([[[6.0, 0.0]]]), ids, table)
    assert values["centroid_distance"] == pytest.approx(2.0)  # |6 - 2| / 2
    assert values["centroid_distance_unit"] == 0.0
    assert values["norm_ratio"] == pytest.approx(3.0)
    values = measure(torch.tensor([[[0.0, 5.0]]]), ids, table)
    assert values["centroid_distance_unit"] == pytest.approx(math.sqrt(2))


def test_collapse_of_directions_spread_over_an_orthogonal_basis_is_one_over_root_dim():
    dim = 9
    speech = torch.arange(1.0, dim + 1)[:, None] * torch.eye(dim)  # lengths do not matter
    values = measure(speech[None], torch.tensor([[0]]), torch.eye(dim))
    assert values["collapse"] == pytest.approx(1 / math.sqrt(dim))
    assert values["collapse_text"] == 1.0


def test_pad_share_counts_frames_nearest_to_the_pad_row():
    table = torch.eye(3)
    speech = table[torch.tensor([[2, 2, 2, 0]])]
    values = measure(speech, torch.tensor([[0]]), table, pad_token_id=2)
    assert values["pad_share"] == pytest.approx(3 / 4)
    assert "pad_share" not in measure(speech, torch.tensor([[0]]), table)


@pytest.mark.parametrize(
    ("path", "rho"),
    [([0, 4, 9], 1.0), ([9, 4, 0], -1.0), ([3, 3, 3], 0.0), ([1, 2, 2], math.sqrt(3) / 2)],
)
def test_monotonicity_is_spearmans_rho(path, rho):
    value, ranked = spearman_with_position(torch.tensor([path]), torch.ones(1, 3).bool())
    assert value.item() == pytest.approx(rho)
    assert ranked.item()


def test_monotonicity_agrees_with_scipy_on_ragged_rows():
    stats = pytest.importorskip("scipy.stats")
    generator = torch.Generator().manual_seed(0)
    path = torch.randint(0, 6, (20, 9), generator=generator)
    lengths = torch.randint(3, 10, (20,), generator=generator)
    rho, _ = spearman_with_position(path, torch.arange(9) < lengths[:, None])
    for row, length in enumerate(lengths.tolist()):
        expected = stats.spearmanr(path[row, :length], torch.arange(length)).statistic
        assert rho[row].item() == pytest.approx(expected, abs=1e-9)


def test_two_tokens_say_nothing_about_monotonicity():
    table = torch.eye(2)
    assert "alignment_monotonicity" not in measure(table[None], torch.tensor([[0, 1]]), table)


def test_retrieval_finds_the_right_transcript_and_ranks_the_wrong_one():
    table = torch.eye(4)
    ids = torch.tensor([[0], [1], [2]])
    speech = table[torch.tensor([[0], [1], [1]])]  # the third utterance sounds like the second
    values = measure(speech, ids, table)
    assert values["retrieval_pooled_top1"] == pytest.approx(2 / 3)
    # for the third, transcript 1 wins and 0 ties with 2: a tie counts against, so rank 3
    assert values["retrieval_pooled_mrr"] == pytest.approx((1 + 1 + 1 / 3) / 3)
    assert values["retrieval_late_top1"] == pytest.approx(2 / 3)


def test_retrieval_counts_a_repeated_transcript_once_and_collapse_fails_it():
    table = torch.eye(4)
    ids = torch.tensor([[0], [0], [1]])
    assert measure(table[ids], ids, table)["retrieval_late_top1"] == 1.0
    same = torch.ones(3, 1, 4)
    assert measure(same, ids, table)["retrieval_late_top1"] == 0.0
    assert "retrieval_late_top1" not in measure(table[ids[:2]], ids[:2], table)


def test_retrieval_ranks_among_the_first_utterances_alone():
    generator = torch.Generator().manual_seed(0)
    table, speech = (
        torch.randn(9, 6, generator=generator),
        torch.randn(5, 4, 6, generator=generator),
    )
    ids = torch.tensor([[1, 2], [3, 4], [5, 6], [7, 8], [2, 3]])
    few, first = measure(speech, ids, table, max_retrieval=3), measure(speech[:3], ids[:3], table)
    for name in ("pooled_top1", "pooled_mrr", "late_top1", "late_mrr"):
        assert few[f"retrieval_{name}"] == pytest.approx(first[f"retrieval_{name}"])
    assert few["num_utterances"] == 5


def test_padding_never_lifts_a_token_in_late_retrieval():
    # The first utterance's one real frame has negative cosines with both transcripts, less so with
    # its own. A padded frame has cosine 0: counted, it would make them equal, and a tie fails.
    table = torch.eye(3)
    ids = torch.tensor([[0], [1]])
    speech = torch.tensor([[[-1.0, -2.0, 0.0], [0.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]] * 2])
    values = measure(speech, ids, table, lengths=[1, 2])
    assert values["retrieval_late_top1"] == 1.0
    assert values["retrieval_late_mrr"] == 1.0


@pytest.mark.parametrize("junk", [0.0, 1e6, math.inf, math.nan])
def test_padding_changes_nothing(junk):
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(12, 5, generator=generator)
    speech = torch.randn(3, 7, 5, generator=generator)
    ids = torch.randint(0, 12, (3, 4), generator=generator)
    lengths, text_lengths = [7, 2, 5], [4, 3, 1]
    one_by_one = ModalityGap(table, pad_token_id=0)
    for row in range(3):
        n, m = lengths[row], text_lengths[row]
        one_by_one.update(
            speech[row : row + 1, :n],
            torch.ones(1, n).bool(),
            ids[row : row + 1, :m],
            torch.ones(1, m).bool(),
        )
    padded, padded_ids = torch.full((3, 10, 5), junk), torch.full((3, 6), -100)
    for row in range(3):
        padded[row, : lengths[row]] = speech[row, : lengths[row]]
        padded_ids[row, : text_lengths[row]] = ids[row, : text_lengths[row]]
    values = measure(
        padded, padded_ids, table, lengths=lengths, text_lengths=text_lengths, pad_token_id=0
    )
    expected = one_by_one.compute()
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, abs=1e-6), name


def test_all_measures_agree_with_a_plain_loop_and_with_a_chunked_vocabulary():
    generator = torch.Generator().manual_seed(2)
    table = torch.randn(15, 6, generator=generator, dtype=torch.float64)
    speech = torch.randn(4, 5, 6, generator=generator, dtype=torch.float64)
    ids = torch.randint(0, 15, (4, 3), generator=generator)
    unit = torch.nn.functional.normalize
    coverage = nearest = best = path = 0.0
    for f, y in zip(speech, ids, strict=True):
        near = {int(torch.argmax(unit(x, dim=0) @ unit(table, dim=1).T)) for x in f}
        coverage += len(near & set(y.tolist())) / len(set(y.tolist())) / 4
        cosines = unit(f, dim=1) @ unit(table[y], dim=1).T
        nearest += sum(int(torch.argmax(unit(x, dim=0) @ unit(table, dim=1).T)) in y for x in f)
        best += cosines.amax(1).mean().item() / 4
        path += cosines.amax(0).mean().item() / 4
    text = table[ids].reshape(-1, 6)
    distance = (speech.reshape(-1, 6).mean(0) - text.mean(0)).norm() / text.norm(dim=1).mean()
    expected = {
        "coverage": coverage,
        "nearest_token": nearest / 20,
        "best_cosine": best,
        "alignment_path_score": path,
        "centroid_distance": distance.item(),
        "collapse": unit(speech, dim=2).mean((0, 1)).norm().item(),
    }
    for options in ({}, {"max_elements": 1}):
        values = measure(speech, ids, table, **options)
        for name, value in expected.items():
            assert values[name] == pytest.approx(value, abs=1e-5), name


def test_of_equal_rows_the_first_is_the_nearest_in_one_chunk_or_many():
    table = torch.eye(2)[[0, 1, 0]]
    for options in ({}, {"max_elements": 1}):
        values = measure(table[None, :1], torch.tensor([[0]]), table, **options)
        assert values["nearest_token"] == 1.0


def test_every_value_is_documented_and_carries_no_gradient():
    table = torch.randn(5, 4, requires_grad=True)
    ids = torch.tensor([[0, 1, 2], [2, 3, 4]])
    speech = torch.randn(2, 6, 4, requires_grad=True)
    values = measure(speech, ids, table, pad_token_id=0)
    assert [name for name in values if not name.startswith("num_")] == list(GAP_MEASURES)
    assert all(isinstance(value, float | int) for value in values.values())
    assert all(entry.formula and entry.source for entry in MEASURES.values())


def test_what_cannot_be_measured_is_refused():
    table, ones = torch.eye(3), torch.ones(1, 2).bool()
    gap = ModalityGap(table)
    with pytest.raises(ValueError, match="at least one update"):
        gap.compute()
    ids = torch.tensor([[0, 1]])
    with pytest.raises(ValueError, match="share their width"):
        gap.update(torch.zeros(1, 2, 4), ones, ids, ones)
    with pytest.raises(ValueError, match="finite speech at real frames"):
        gap.update(torch.full((1, 2, 3), math.nan), ones, ids, ones)
    with pytest.raises(ValueError, match="at least one real frame"):
        gap.update(torch.zeros(1, 2, 3), ~ones, ids, ones)
    with pytest.raises(ValueError, match=r"token ids in \[0, 3\)"):
        gap.update(torch.zeros(1, 2, 3), ones, ids + 2, ones)
    with pytest.raises(ValueError, match="boolean text_mask"):
        gap.update(torch.zeros(1, 2, 3), ones, ids, ones.float())
    with pytest.raises(ValueError, match="pad_token_id"):
        ModalityGap(table, pad_token_id=3)
    ModalityGap(torch.ones(5, 3), pad_token_id=4, max_retrieval=1, max_elements=1)
    for limits in ({"max_retrieval": 0}, {"max_elements": 0}):
        with pytest.raises(ValueError, match="of at least 1"):
            ModalityGap(table, **limits)
    with pytest.raises(ValueError, match="finite embedding_table"):
        ModalityGap(table * math.nan)
