"""Every epoch of equal length holds every utterance once, within the budget."""

from itertools import chain

import numpy as np
import pytest

from otreg.data import TokenBudgetBatchSampler
from otreg.training.batches import EqualEpochs

LENGTHS = np.random.default_rng(0).integers(5, 120, size=211).tolist()
BUDGET = 400


def natural(seed, epoch):
    """How many batches an epoch has by itself."""
    sampler = TokenBudgetBatchSampler(LENGTHS, BUDGET, seed=seed)
    sampler.set_epoch(epoch)
    return len(sampler)


def seed_whose_last_epoch_is_longest(num_epochs):
    return next(
        seed
        for seed in range(1000)
        if natural(seed, num_epochs - 1) > max(natural(seed, n) for n in range(num_epochs - 1))
    )


def check_epochs(sampler, num_epochs):
    for epoch in range(num_epochs):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert sorted(chain.from_iterable(batches)) == list(range(len(LENGTHS)))
        assert all(batches)
        assert max(len(b) * max(LENGTHS[i] for i in b) for b in batches) <= BUDGET


@pytest.mark.parametrize("num_epochs", [2.0, 1.5, 1.01, 2.3])
def test_no_epoch_loses_an_utterance_also_where_the_last_is_cut_short(num_epochs):
    last = int(np.ceil(num_epochs))
    seed = seed_whose_last_epoch_is_longest(last)
    sampler = EqualEpochs(LENGTHS, BUDGET, seed=seed, num_epochs=num_epochs)
    assert len(sampler) == natural(seed, last - 1)
    check_epochs(sampler, last)


@pytest.mark.parametrize("share", [1.0, 1.02, 1.5])
def test_a_number_of_batches_counts_as_the_epochs_that_it_reaches_into(share):
    seed = seed_whose_last_epoch_is_longest(2)
    num_batches = int(np.ceil(share * natural(seed, 0)))
    reached = 1 if share == 1.0 else 2
    sampler = EqualEpochs(LENGTHS, BUDGET, seed=seed, num_batches=num_batches)
    assert len(sampler) == natural(seed, reached - 1)
    check_epochs(sampler, reached)


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_the_ranks_get_as_many_batches_each(world_size):
    sampler = EqualEpochs(LENGTHS, BUDGET, seed=0, num_epochs=3, world_size=world_size)
    assert len(sampler) % world_size == 0
    longest = max(natural(0, epoch) for epoch in range(3))
    assert longest <= len(sampler) < longest + world_size
    check_epochs(sampler, 3)


def test_with_fewer_utterances_than_ranks_every_batch_holds_one():
    sampler = EqualEpochs([5, 6, 7], BUDGET, seed=0, num_epochs=1, world_size=4)
    assert sorted(sampler) == [[0], [1], [2]]
