"""The best monotone path of frames through a sequence of labels, with or without blanks."""

from __future__ import annotations

import numpy as np

__all__ = ["monotone_path"]


def monotone_path(
    labels: np.ndarray, blank: np.ndarray, needs_blank: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """Find which frames belong to which label (Viterbi over the CTC trellis).

    The states are blank, label 1, blank, label 2, …, blank. A frame stays, goes on to the next
    state, or passes over a blank where none is needed:

        best[t, s] = score[t, s] + max(best[t-1, s], best[t-1, s-1], best[t-1, s-2] at such a label)

    Every label holds one frame at least. Of equal paths, the one whose last moves come earliest is taken.

    Args:
        labels: (frames, labels) log score of each label in its turn at each frame.
        blank: (frames,) log score of "no label"; -inf everywhere = there is none.
        needs_blank: (labels,) boolean, True where a blank must stand before the label: in CTC,
            where it equals the label before it. None = nowhere.

    Returns:
        (labels, 2) the first frame of each label and the one after its last, and the path's score.

    Raises:
        ValueError: no path exists: too few frames, or scores of -inf on every one.

    Source: the trellis is CTC's (Graves et al. 2006, section 4.1), its sums replaced by maxima.
    """
    num_frames, num_labels = labels.shape
    if num_labels == 0:
        raise ValueError("expected at least one label, received none")
    states = 2 * num_labels + 1
    score = np.repeat(blank[:, None].astype(np.float64), states, axis=1)
    score[:, 1::2] = labels
    may_pass = np.zeros(states, dtype=bool)
    may_pass[3::2] = True if needs_blank is None else ~np.asarray(needs_blank)[1:]
    best = np.full(states, -np.inf)
    best[:2] = score[0, :2]
    steps = np.zeros((num_frames, states), dtype=np.int8)  # states that the path went forward
    for t in range(1, num_frames):
        before = np.full((3, states), -np.inf)
        before[0] = best
        before[1, 1:] = best[:-1]
        before[2, 2:] = np.where(may_pass[2:], best[:-2], -np.inf)
        steps[t] = before.argmax(axis=0)
        best = before.max(axis=0) + score[t]
    state = states - 1 if best[-1] > best[-2] else states - 2
    total = float(best[state])
    if not np.isfinite(total):
        raise ValueError(f"no path of {num_frames} frames passes through {num_labels} labels")
    path = np.empty(num_frames, dtype=np.int64)
    for t in range(num_frames - 1, -1, -1):
        path[t] = state
        state -= int(steps[t, state])
    numbers = 2 * np.arange(num_labels) + 1
    first = np.searchsorted(path, numbers, side="left")
    after = np.searchsorted(path, numbers, side="right")
    return np.stack([first, after], axis=1), total
