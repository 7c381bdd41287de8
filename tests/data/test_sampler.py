import doctest
from itertools import chain

import numpy as np
import pytest
import torch

from otreg.data import TokenBudgetBatchSampler
from otreg.data import sampler as sampler_module

LENGTHS = np.random.default_rng(0).integers(5, 120, size=997).tolist()


def cost(batch, lengths=LENGTHS):
    return len(batch) * max(lengths[index] for index in batch)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("max_tokens", [119, 500, 4001, 10**9])
def test_every_index_stands_in_exactly_one_batch_within_the_budget(shuffle, max_tokens):
    sampler = TokenBudgetBatchSampler(LENGTHS, max_tokens, shuffle=shuffle, seed=3)
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert sorted(chain.from_iterable(batches)) == list(range(len(LENGTHS)))
        assert max(map(cost, batches)) <= max_tokens
        assert len(sampler) == len(batches)


def test_the_order_follows_from_seed_and_epoch_alone():
    def order(seed, epoch):
        sampler = TokenBudgetBatchSampler(LENGTHS, 800, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    used = TokenBudgetBatchSampler(LENGTHS, 800, seed=1)
    for epoch in range(3):
        used.set_epoch(epoch)
        assert list(used) == order(1, epoch)
    assert order(1, 0) != order(1, 1) != order(2, 1)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    assert list(used) == order(1, 2)


def test_without_shuffle_the_order_is_the_items_own():
    sampler = TokenBudgetBatchSampler(LENGTHS, 800, shuffle=False)
    assert list(chain.from_iterable(sampler)) == list(range(len(LENGTHS)))
    sampler.set_epoch(4)
    assert list(chain.from_iterable(sampler)) == list(range(len(LENGTHS)))


def test_shuffled_batches_waste_little_on_padding_and_mix_between_epochs():
    sampler = TokenBudgetBatchSampler(LENGTHS, 2000)
    batches = list(sampler)
    assert sum(LENGTHS) / sum(map(cost, batches)) > 0.9
    lengths_in_order = [max(LENGTHS[index] for index in batch) for batch in batches]
    assert lengths_in_order != sorted(lengths_in_order)
    sampler.set_epoch(1)
    first = {frozenset(batch) for batch in batches}
    assert len(first & {frozenset(batch) for batch in sampler}) < len(first) / 10


def test_max_items_caps_a_batch():
    batches = list(TokenBudgetBatchSampler(LENGTHS, 10**6, max_items=8))
    assert max(map(len, batches)) == 8
    assert len(batches) == -(-len(LENGTHS) // 8)


@pytest.mark.parametrize("done", [0, 1, 7, "all"])
def test_resuming_goes_on_where_it_stopped(done):
    sampler = TokenBudgetBatchSampler(LENGTHS, 800, seed=1)
    sampler.set_epoch(2)
    whole = list(sampler)
    count = len(whole) if done == "all" else done
    state = sampler.state_dict(num_batches=count)
    resumed = TokenBudgetBatchSampler(LENGTHS, 800, seed=1)
    resumed.load_state_dict(state)
    assert list(resumed) == whole[count:]
    assert list(resumed) == whole
    assert len(resumed) == len(whole)


def test_the_state_counts_the_batches_handed_out():
    sampler = TokenBudgetBatchSampler(LENGTHS, 800)
    batches = iter(sampler)
    handed = [next(batches) for _ in range(5)]
    resumed = TokenBudgetBatchSampler(LENGTHS, 800)
    resumed.load_state_dict(sampler.state_dict())
    assert handed + list(resumed) == sampler.batches()


def test_a_new_epoch_starts_at_its_beginning():
    sampler = TokenBudgetBatchSampler(LENGTHS, 800)
    sampler.load_state_dict(sampler.state_dict(num_batches=5))
    sampler.set_epoch(1)
    assert list(sampler) == sampler.batches()


def test_the_epoch_said_again_keeps_the_position_that_was_loaded():
    """Training loops call set_epoch at the start of every epoch, a resumed one too."""
    sampler = TokenBudgetBatchSampler(LENGTHS, 800)
    sampler.set_epoch(2)
    state = sampler.state_dict(num_batches=5)
    whole = list(sampler)
    resumed = TokenBudgetBatchSampler(LENGTHS, 800)
    resumed.load_state_dict(state)
    resumed.set_epoch(2)
    assert resumed.state_dict() == state
    assert list(resumed) == whole[5:]


def test_a_new_epoch_gives_up_the_position_for_good():
    sampler = TokenBudgetBatchSampler(LENGTHS, 800)
    sampler.load_state_dict(sampler.state_dict(num_batches=5))
    sampler.set_epoch(1)
    assert sampler.state_dict()["num_batches"] == 0
    sampler.set_epoch(0)
    assert list(sampler) == sampler.batches()


def test_the_position_is_counted_from_the_start_of_the_epoch():
    sampler = TokenBudgetBatchSampler(LENGTHS, 800)
    sampler.load_state_dict(sampler.state_dict(num_batches=5))
    batches = iter(sampler)
    next(batches)
    assert sampler.state_dict()["num_batches"] == 6


@pytest.mark.parametrize(
    "changes",
    [
        {"lengths": [*LENGTHS[:-1], 4]},
        {"lengths": LENGTHS[:-1]},
        {"max_tokens": 801},
        {"seed": 1},
        {"shuffle": False},
        {"max_items": 4},
    ],
)
def test_a_state_of_other_data_or_options_is_refused(changes):
    options = {"lengths": LENGTHS, "max_tokens": 800, "seed": 0}
    state = TokenBudgetBatchSampler(**options).state_dict()
    with pytest.raises(ValueError, match="cannot resume"):
        TokenBudgetBatchSampler(**{**options, **changes}).load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": [3, 9, 12], "max_tokens": 8}, r"item 2 has 12 tokens.*8 \(2 such items\)"),
        ({"lengths": []}, "at least one item"),
        ({"lengths": [[1]]}, "at least one item"),
        ({"lengths": [3, 0]}, "item 1 has length 0"),
        ({"lengths": [3.5]}, "whole numbers"),
        ({"max_items": 0}, "max_items must be at least 1"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TokenBudgetBatchSampler(**{"lengths": [3], "max_tokens": 10, **options})


def test_positions_out_of_range_are_refused():
    sampler = TokenBudgetBatchSampler([3, 4], 4)
    with pytest.raises(ValueError, match="must be 0 to 2"):
        sampler.state_dict(num_batches=3)
    with pytest.raises(ValueError, match="epoch must not be negative"):
        sampler.set_epoch(-1)


def test_a_data_loader_takes_it_as_a_batch_sampler():
    sampler = TokenBudgetBatchSampler(LENGTHS, 800)
    loader = torch.utils.data.DataLoader(torch.arange(len(LENGTHS)), batch_sampler=sampler)
    assert [batch.tolist() for batch in loader] == list(sampler)


def test_the_examples_in_docstrings_hold():
    result = doctest.testmod(sampler_module)
    assert result.attempted > 0
    assert result.failed == 0
