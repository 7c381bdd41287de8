"""Measures between hidden states, and retrieval, against closed forms and plain loops."""

import doctest
from types import SimpleNamespace

import pytest
import torch

from otreg.evaluation import layer_gap, measures, modality_gap
from otreg.evaluation.layer_gap import LayerGap, measure_layers
from otreg.evaluation.measures import retrieval_chance
from otreg.evaluation.modality_gap import ModalityGap
from otreg.evaluation.retrieval import reciprocal_ranks


def states(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_reciprocal_ranks_agree_with_a_plain_loop():
    speech, text = states(0, 12, 5), states(1, 12, 5)
    expected = []
    for row, vector in enumerate(speech):
        scores = [torch.cosine_similarity(vector, other, dim=0).item() for other in text]
        expected.append(1 / (1 + sorted(scores, reverse=True).index(scores[row])))
    assert reciprocal_ranks(speech, text).tolist() == pytest.approx(expected)


def test_ties_count_against_and_scale_does_not_matter():
    same = torch.ones(4, 3)
    assert reciprocal_ranks(same, same).tolist() == [1 / 4] * 4
    speech = torch.eye(3)
    assert reciprocal_ranks(5 * speech, 0.1 * speech).tolist() == [1, 1, 1]
    assert reciprocal_ranks(speech, -speech).tolist() == [1 / 3] * 3


def test_equal_transcripts_are_one_candidate():
    speech, text = torch.eye(3)[[0, 0, 1]], torch.eye(3)[[0, 0, 1]]
    assert reciprocal_ranks(speech, text).tolist() == [1 / 2, 1 / 2, 1]
    assert reciprocal_ranks(speech, text, ["a", "a", "b"]).tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="at least two distinct"):
        reciprocal_ranks(speech, text, ["a", "a", "a"])


def test_random_vectors_rank_at_chance():
    top1, mrr = retrieval_chance(30)
    ranks = torch.cat(
        [reciprocal_ranks(states(seed, 30, 64), states(seed + 999, 30, 64)) for seed in range(60)]
    )
    assert ranks.mean().item() == pytest.approx(mrr, rel=0.1)
    assert (ranks == 1).double().mean().item() == pytest.approx(top1, rel=0.4)


def test_vectors_that_cannot_be_ranked_are_refused():
    with pytest.raises(ValueError, match="of one shape"):
        reciprocal_ranks(states(0, 3, 4), states(0, 2, 4))
    with pytest.raises(ValueError, match="expected finite vectors"):
        reciprocal_ranks(torch.full((2, 2), torch.nan), torch.ones(2, 2))


def test_a_table_lookup_is_the_input_layer():
    table, speech = states(0, 9, 6), states(1, 4, 5, 6)
    ids = torch.tensor([[1, 2, 3], [4, 5, 6], [1, 2, 3], [7, 8, 0]])
    mask, text_mask = torch.ones(4, 5).bool(), torch.ones(4, 3).bool()
    mask[1, 3:] = text_mask[2, 2:] = False
    gap, layer = ModalityGap(table), LayerGap()
    gap.update(speech, mask, ids, text_mask)
    keys = [tuple(row[real].tolist()) for row, real in zip(ids, text_mask, strict=True)]
    layer.update(speech, mask, table[ids], text_mask, keys)
    expected = gap.compute()
    for name, value in layer.compute().items():
        assert value == pytest.approx(expected[name]), name
    assert "coverage" not in layer.compute()
    assert "retrieval_late_mrr" not in layer.compute()


def test_the_sums_of_the_samples_are_the_measures():
    table, speech = states(0, 9, 6), states(1, 5, 4, 6)
    ids = torch.tensor([[1, 2, 3], [4, 5, 6], [1, 2, 3], [7, 8, 0], [3, 3, 1]])
    text_mask = torch.ones(5, 3).bool()
    text_mask[3, 1:] = False  # one token: no monotonicity
    gap = ModalityGap(table, pad_token_id=0, max_retrieval=3)
    for part in (slice(0, 2), slice(2, 4), slice(4, 5)):  # the last batch is ragged
        gap.update(speech[part], torch.ones(5, 4).bool()[part], ids[part], text_mask[part])
    values, samples = gap.compute(), gap.samples()
    assert {"coverage", "nearest_token", "retrieval_late_mrr", "pad_share"} <= samples.keys()
    for name, (above, below) in samples.items():
        assert above.shape == below.shape == (5,)
        assert values[name] == pytest.approx((above.sum() / below.sum()).item()), name
    assert samples["alignment_monotonicity"][1].tolist() == [1, 1, 1, 0, 1]
    for name in ("pooled_mrr", "pooled_top1", "late_mrr", "late_top1"):
        assert samples[f"retrieval_{name}"][1].tolist() == [1, 1, 1, 0, 0]
    assert values["num_candidates"] == 2


@pytest.mark.parametrize("junk", [1e6, float("nan")])
def test_padding_on_either_side_changes_nothing(junk):
    speech, text = states(2, 3, 6, 4), states(3, 3, 5, 4)
    lengths, text_lengths = [6, 2, 4], [5, 3, 1]
    padded, alone = LayerGap(), LayerGap()
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    text_mask = torch.arange(5) < torch.tensor(text_lengths)[:, None]
    for row, (n, m) in enumerate(zip(lengths, text_lengths, strict=True)):
        alone.update(
            speech[row : row + 1, :n],
            torch.ones(1, n).bool(),
            text[row : row + 1, :m],
            torch.ones(1, m).bool(),
            [row],
        )
    speech[~mask], text[~text_mask] = junk, junk
    padded.update(speech, mask, text, text_mask)
    expected = alone.compute()
    assert padded.compute().keys() == expected.keys()
    for name, value in padded.compute().items():
        assert value == pytest.approx(expected[name], abs=1e-6), name


def test_layers_are_measured_apart_over_views():
    class View:
        def __init__(self):
            mask = torch.tensor([[True, True], [False, False], [True, True]])
            self.batch = {"text_ids": torch.tensor([[1, 2], [0, 0], [3, 4]]), "text_mask": mask}

        def pair(self, layer):
            """Two transcribed clips of three: aligned at layer 1, crossed at layer 0."""
            text = torch.eye(4)[None, :2].repeat(2, 1, 1)
            text[1] = torch.eye(4)[2:]
            speech = text if layer == 1 else text.flip(0)
            ones = torch.ones(2, 2).bool()
            return SimpleNamespace(speech=speech, speech_mask=ones, text=text, text_mask=ones)

    gaps = measure_layers([View()], [0, 1])
    found = {layer: gap.compute() for layer, gap in gaps.items()}
    assert found[1]["retrieval_pooled_mrr"] == 1
    assert found[0]["retrieval_pooled_mrr"] == 0.5
    assert found[0]["num_candidates"] == 2
    again = measure_layers([View(), View()], [1])[1].compute()
    assert again["num_candidates"] == 2  # the same transcripts once more
    assert again["retrieval_pooled_mrr"] == 1


def test_what_cannot_be_measured_is_refused():
    gap, ones = LayerGap(), torch.ones(1, 2).bool()
    with pytest.raises(ValueError, match="at least one update"):
        gap.compute()
    x = torch.ones(1, 2, 3)
    for arguments, message in [
        ((x[0], ones, x, ones), r"speech of shape \(batch, frames, dim\)"),
        ((x, ones, x.long(), ones), r"text of shape \(batch, tokens, dim\)"),
        ((x, ones, x, ones.float()), "boolean text_mask"),
        ((x, ~ones, x, ones), "at least one real frame"),
        ((x, ones, x * torch.nan, ones), "finite text at real tokens"),
        ((x, ones, x[..., :2], ones), "same utterances and width"),
    ]:
        with pytest.raises(ValueError, match=message):
            gap.update(*arguments)
    gap.update(x, ones, 0 * x, ones)
    with pytest.raises(ValueError, match="all-zero rows"):
        gap.compute()


def test_the_examples_in_docstrings_hold():
    for module in (layer_gap, modality_gap, measures):
        result = doctest.testmod(module)
        assert result.attempted > 0
        assert result.failed == 0
