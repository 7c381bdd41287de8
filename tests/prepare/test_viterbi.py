"""The best path, against a search through every path of tiny cases."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from otreg.prepare.viterbi import monotone_path


def all_paths(num_frames: int, needs_blank: list[bool]):
    """Every walk through blank, 1, blank, 2, …, blank that CTC's rules allow, as lists of states."""
    states = 2 * len(needs_blank) + 1
    for walk in itertools.product(range(states), repeat=num_frames):
        if walk[0] > 1 or walk[-1] < states - 2:
            continue
        steps = [(b - a, b) for a, b in itertools.pairwise(walk)]
        allowed = all(
            step in (0, 1) or (step == 2 and state % 2 == 1 and not needs_blank[state // 2])
            for step, state in steps
        )
        if allowed:
            yield walk


def best_of_all(labels: np.ndarray, blank: np.ndarray, needs_blank: list[bool]):
    def score(walk):
        return sum(labels[t, state // 2] if state % 2 else blank[t] for t, state in enumerate(walk))

    walks = list(all_paths(len(blank), needs_blank))
    return max(walks, key=score, default=None), score


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("with_blank", [True, False])
def test_the_best_path_is_the_best_of_all_paths(seed: int, with_blank: bool) -> None:
    rng = np.random.default_rng(seed)
    num_frames, num_labels = int(rng.integers(4, 7)), int(rng.integers(1, 4))
    labels = rng.normal(size=(num_frames, num_labels))
    blank = rng.normal(size=num_frames) if with_blank else np.full(num_frames, -np.inf)
    needs = [False] + [bool(with_blank and rng.random() < 0.5) for _ in range(num_labels - 1)]
    walk, score = best_of_all(labels, blank, needs)
    if walk is None or not np.isfinite(score(walk)):
        with pytest.raises(ValueError, match="no path of"):
            monotone_path(labels, blank, np.array(needs))
        return
    frames, total = monotone_path(labels, blank, np.array(needs))
    assert total == pytest.approx(score(walk))
    for label, (first, after) in enumerate(frames):
        assert list(range(first, after)) == [t for t, s in enumerate(walk) if s == 2 * label + 1]


def test_a_repeated_label_needs_a_blank_and_so_a_frame_more() -> None:
    labels, blank = np.zeros((2, 2)), np.zeros(2)
    frames, _ = monotone_path(labels, blank, np.array([False, False]))
    assert frames.tolist() == [[0, 1], [1, 2]]
    with pytest.raises(ValueError, match="no path of 2 frames passes through 2 labels"):
        monotone_path(labels, blank, np.array([False, True]))


def test_no_label_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one label"):
        monotone_path(np.zeros((3, 0)), np.zeros(3))
