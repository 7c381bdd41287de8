"""Active selection of texts: which clusters to draw from, and the draw.

Source: SALAD (arXiv 2510.13632), stage 2: balanced k-means over sentence embeddings of web text, and
P(c) proportional to P_web(c) M(c)^gamma with gamma 5, M the misalignment of a cluster. How the draw
itself is made, and M of clusters without a score, are not published: ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Clusters:
    """Texts in clusters.

    Args:
        labels: (texts,) the cluster of each text.
        centres: (clusters, dim) mean embeddings.
        balanced: whether sizes differ by at most one; else they are as the nearest centre has it.
    """

    labels: np.ndarray
    centres: np.ndarray
    balanced: bool

    def sizes(self) -> np.ndarray:
        """(clusters,) number of texts in each."""
        return np.bincount(self.labels, minlength=len(self.centres))

    def nearest(self, embeddings: np.ndarray) -> np.ndarray:
        """(texts,) the cluster whose centre is nearest to each embedding."""
        return _nearest(embeddings, self.centres)


def balanced_clusters(
    embeddings: np.ndarray, num_clusters: int, *, seed: int = 0, fit_on: int = 10_000
) -> Clusters:
    """Balanced k-means: clusters of equal size, to within one text.

    Args:
        embeddings: (texts, dim).
        num_clusters: K >= 1, at most the number of texts.
        seed: of the start, and of the sample.
        fit_on: with more texts than this, centres are fitted to a sample of so many, in which they
            are balanced, and every text then goes to its nearest centre: the assignment is a flow
            over texts x clusters edges, too many for all of a web corpus.

    Raises:
        ValueError: more clusters than texts to fit on.
        ImportError: the extra `select` is not installed.
    """
    num_texts = len(embeddings)
    if not 1 <= num_clusters <= min(num_texts, fit_on):
        raise ValueError(
            f"expected 1 to {min(num_texts, fit_on)} clusters for {num_texts} texts, received "
            f"{num_clusters}; give --clusters accordingly"
        )
    try:
        from k_means_constrained import KMeansConstrained
    except ImportError as error:
        raise ImportError(
            "balanced k-means needs the package k-means-constrained: pip install 'otreg[select]'"
        ) from error
    sampled = num_texts > fit_on
    sample = embeddings
    if sampled:
        rng = np.random.default_rng(seed)
        sample = embeddings[np.sort(rng.choice(num_texts, fit_on, replace=False))]
    fitted = KMeansConstrained(
        num_clusters,
        size_min=len(sample) // num_clusters,
        size_max=-(-len(sample) // num_clusters),
        n_init=1,
        random_state=seed,
    ).fit(sample.astype(np.float64))
    centres = np.asarray(fitted.cluster_centers_)
    labels = _nearest(embeddings, centres) if sampled else np.asarray(fitted.labels_)
    return Clusters(labels.astype(np.int64), centres, not sampled)


def misalignment_by_cluster(
    labels: np.ndarray, sums: np.ndarray, positions: np.ndarray, num_clusters: int
) -> tuple[np.ndarray, np.ndarray]:
    """M(c): the misalignment of a cluster's scored texts over their positions.

    A cluster without scored texts takes the mean over all scored positions, so that it is neither
    preferred nor avoided.

    Args:
        labels: (scored,) cluster of each scored text.
        sums: (scored,) KL summed over the text's positions, in nats.
        positions: (scored,) how many positions that were.
        num_clusters: K.

    Returns:
        (clusters,) M, and (clusters,) the number of scored texts.

    Raises:
        ValueError: no score at all.
    """
    if not len(labels):
        raise ValueError("expected the misalignment of some texts, received none; see --scores")
    total = np.bincount(labels, weights=sums, minlength=num_clusters)
    count = np.bincount(labels, weights=positions, minlength=num_clusters)
    pooled = float(np.sum(sums)) / float(np.sum(positions))
    mean = np.where(count > 0, total / np.where(count > 0, count, 1), pooled)
    return mean, np.bincount(labels, minlength=num_clusters)


def target_shares(web: np.ndarray, misalignment: np.ndarray, gamma: float = 5.0) -> np.ndarray:
    """P(c) = P_web(c) M(c)^gamma / sum_c' P_web(c') M(c')^gamma.

    Args:
        web: (clusters,) P_web, or any multiple of it.
        misalignment: (clusters,) M >= 0.
        gamma: >= 0; 0 gives P_web back.

    Example:
        >>> [round(float(target_shares([1, 1, 1, 1], [r, 1, 1, 1])[0]), 2) for r in (1.3, 1.5, 2)]
        [0.55, 0.72, 0.91]
    """
    if not (np.isfinite(gamma) and gamma >= 0):
        raise ValueError(f"gamma must be >= 0 and finite, got {gamma}")
    misalignment = np.asarray(misalignment, dtype=np.float64)
    weight = np.asarray(web, dtype=np.float64)
    if gamma > 0:
        if misalignment.max() <= 0:
            raise ValueError("every misalignment is 0: nothing is to be preferred; give --gamma 0")
        weight = weight * (misalignment / misalignment.max()) ** gamma  # M^gamma may overflow
    return weight / weight.sum()


def draw_counts(sizes: np.ndarray, shares: np.ndarray, count: int) -> np.ndarray:
    """How many texts to draw from each cluster: the shares, rounded, within the sizes.

    A cluster too small for its share gives all it has, and the others share the rest in
    proportion. Rounding is by largest remainder, so no count is off by one or more.

    Args:
        sizes: (clusters,) texts there are.
        shares: (clusters,) P(c), summing to 1.
        count: texts to draw, at most all.

    Returns:
        (clusters,) whole numbers that sum to count.
    """
    if not 1 <= count <= sizes.sum():
        raise ValueError(f"expected to draw 1 to {sizes.sum()} texts, received {count}")
    exact = np.zeros(len(sizes))
    full = np.zeros(len(sizes), dtype=bool)
    while True:
        open_share = np.where(full, 0.0, shares)
        left = count - sizes[full].sum()
        if open_share.sum() == 0:  # only clusters of share 0 are left to draw from
            open_share = np.where(full, 0.0, sizes)
        exact = np.where(full, sizes, left * open_share / max(open_share.sum(), 1e-300))
        over = ~full & (exact > sizes)
        if not over.any():
            break
        full |= over
    counts = np.floor(exact + 1e-9).astype(np.int64)
    remainder = np.where(counts < sizes, exact - counts, -np.inf)
    for cluster in np.argsort(-remainder, kind="stable")[: count - counts.sum()]:
        counts[cluster] += 1
    return counts


def draw(labels: np.ndarray, counts: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Draw so many texts of each cluster without replacement, all of a cluster alike.

    Returns:
        Indices of the texts, ascending; the same for the same seed.
    """
    rng = np.random.default_rng(seed)
    chosen = [
        rng.permutation(np.flatnonzero(labels == cluster))[:count]
        for cluster, count in enumerate(counts)
    ]
    return np.sort(np.concatenate(chosen))


def _nearest(embeddings: np.ndarray, centres: np.ndarray, block: int = 65_536) -> np.ndarray:
    squares = (centres**2).sum(axis=1)
    labels = [
        (squares - 2 * embeddings[first : first + block] @ centres.T).argmin(axis=1)
        for first in range(0, len(embeddings), block)
    ]
    return np.concatenate(labels) if labels else np.zeros(0, dtype=np.int64)
