"""Divergences of next-token predictions against closed forms, SciPy and a plain loop."""

import math
from types import SimpleNamespace

import pytest
import torch

from otreg.evaluation.divergences import measure_divergences, sum_by_utterance
from otreg.objectives.cross_entropy import predicted_positions
from otreg.objectives.distillation import kl_divergence


def test_the_divergence_of_two_coins_has_its_closed_form():
    p, q = torch.tensor([[0.25, 0.75]]), torch.tensor([[0.5, 0.5]])
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert kl_divergence(p.log(), q.log()).item() == pytest.approx(expected)
    assert kl_divergence(q.log(), p.log()).item() == pytest.approx(0.5 * math.log(4 / 3))


def test_logits_and_log_probabilities_are_the_same_and_chunks_change_nothing():
    generator = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, 7, 11, generator=generator)
    whole = kl_divergence(p, q)
    oracle = torch.nn.functional.kl_div(
        q.log_softmax(1), p.log_softmax(1), log_target=True, reduction="none"
    ).sum(1)
    torch.testing.assert_close(whole, oracle)
    torch.testing.assert_close(kl_divergence(p.log_softmax(1) + 3, q - 5), whole)
    for max_elements in (1, 22, 30):
        torch.testing.assert_close(kl_divergence(p, q, max_elements=max_elements), whole)
    assert kl_divergence(p, p).abs().max() == 0
    assert (whole > 0).all()


def test_what_the_target_excludes_adds_nothing_and_what_the_other_excludes_is_infinite():
    p, q = torch.tensor([[0.0, -math.inf]]), torch.tensor([[0.0, 0.0]])
    assert kl_divergence(p, q).item() == pytest.approx(math.log(2))
    assert kl_divergence(p, p).item() == 0
    assert kl_divergence(q, p).item() == math.inf


def test_half_precision_is_measured_in_single(unchecked_shapes):
    p = torch.randn(3, 50, generator=torch.Generator().manual_seed(1))
    value = kl_divergence(p.bfloat16(), p.bfloat16() + 1)
    assert value.dtype == torch.float32
    assert kl_divergence(p, p.double()).dtype == torch.float64
    assert kl_divergence(p[:0], p[:0]).shape == (0,)
    with pytest.raises(ValueError, match="cut both to the vocabulary"):
        kl_divergence(p, p[:, :-1])


def test_sums_are_those_of_each_utterance():
    sums, counts = sum_by_utterance(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2, 0, 2]), 3)
    assert sums.tolist() == [2, 0, 5]
    assert counts.tolist() == [1, 0, 2]


def make_view(twin_index, labels, vocab=5, twin_tokens=4, reference=True):
    generator = torch.Generator().manual_seed(3)
    batch, tokens = twin_index.shape

    def logits(length):
        return SimpleNamespace(logits=torch.randn(batch, length, vocab, generator=generator))

    speech = logits(tokens)
    speech.labels = labels
    return SimpleNamespace(
        speech=speech,
        text=logits(twin_tokens),
        reference_text=logits(twin_tokens) if reference else None,
        twin_index=twin_index,
    )


def test_each_text_token_is_compared_where_both_passes_predict_it():
    # Row 0: <s> [two frames for "a"] b c; its twin is <s> a b c. Row 1: only its second token counts.
    twin_index = torch.tensor([[0, -1, -1, 2, 3], [0, 1, 2, 3, -1]])
    labels = torch.tensor([[-100, -100, -100, 7, 8], [-100, 9, -100, -100, -100]])
    view = make_view(twin_index, labels)
    rows, at, twin = predicted_positions(view)
    assert list(zip(rows.tolist(), at.tolist(), twin.tolist(), strict=True)) == [
        (0, 2, 1),  # b after the last frame, and after a
        (0, 3, 2),
        (1, 0, 0),
    ]
    found = measure_divergences(view)
    speech, text, reference = view.speech.logits, view.text.logits, view.reference_text.logits
    for name, pairs in (
        ("misalignment", [(text[0, 1], speech[0, 2]), (text[0, 2], speech[0, 3])]),
        ("forgetting", [(reference[0, 1], text[0, 1]), (reference[0, 2], text[0, 2])]),
    ):
        sums, counts = found[name]
        expected = sum(kl_divergence(p[None], q[None]).item() for p, q in pairs)
        assert sums[0].item() == pytest.approx(expected)
        assert counts.tolist() == [2, 1]
    without = measure_divergences(make_view(twin_index, labels, reference=False))
    assert list(without) == ["misalignment"]


def test_the_first_token_of_a_row_has_nothing_before_it():
    view = make_view(torch.tensor([[0, 1], [0, 2]]), torch.tensor([[1, 2], [3, 4]]))
    rows, at, twin = predicted_positions(view)
    assert (rows.tolist(), at.tolist(), twin.tolist()) == ([0, 1], [0, 0], [0, 1])


def test_a_model_that_was_not_trained_has_forgotten_nothing():
    view = make_view(torch.tensor([[0, 1, 2, 3]]), torch.tensor([[1, 2, 3, 4]]))
    view.reference_text = view.text
    view.speech.logits = view.text.logits
    for sums, counts in measure_divergences(view).values():
        assert sums.tolist() == [0]
        assert counts.tolist() == [3]
