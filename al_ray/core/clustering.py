"""Clusters of examples by k-means, and the examples that stand for them."""

import warnings
from collections import deque

import numpy as np

from al_ray.core.distances import mean_distance_to_neighbors, nearest, single
from al_ray.core.types import Float64Array, FloatArray, IntArray

LLOYD_PAIRS = 2_000_000
"""Points x clusters up to which k-means looks at every point in every iteration: seconds, not minutes."""

MAX_CLUSTERS = 500
MAX_LLOYD_CLUSTERS = 50
MIN_CLUSTER_SIZE = 5
N_NEIGHBORS = 20


def k_means(points: FloatArray, n_clusters: int, stream: np.random.Generator, mini_batch: bool) -> FloatArray:
    """Return the centres that k-means finds ``[n_clusters, n_features]``; one start, by k-means++.

    Lloyd's algorithm, or that of Sculley 2010 (doi 10.1145/1772690.1772862) on mini-batches, by scikit-learn. With
    fewer distinct points than clusters some centres are equal.

    Args:
        points: ``[n, n_features]``.
        n_clusters: at most n.
        stream: gives the seed.
        mini_batch: whether to use mini-batches.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    assert 0 < n_clusters <= len(points)
    seed = int(stream.integers(2**31 - 1))
    fit = (
        MiniBatchKMeans(n_clusters, n_init=1, batch_size=2048, max_iter=20, compute_labels=False, random_state=seed)
        if mini_batch
        else KMeans(n_clusters, n_init=1, max_iter=100, random_state=seed)
    )
    # OpenMP threads add their sums in the order in which they finish, so that the last bits of the centres would hang
    # on chance.
    with warnings.catch_warnings(), threadpool_limits(limits=1, user_api="openmp"):
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit.fit(single(points))
    return fit.cluster_centers_


def representatives(points: FloatArray, n: int, stream: np.random.Generator) -> IntArray:
    """Choose the point nearest to each of ``n`` k-means centres, in its own cluster; the largest cluster first.

    Where clusters are empty, because too few points are distinct, points are drawn at random from the rest.

    Args:
        points: ``[n_points, n_features]``.
        n: at most ``n_points``.
        stream: for k-means and for the rest.

    Returns:
        rows ``[n]``, unique; the lower row where two are as near.
    """
    if n == len(points):
        return np.arange(n)
    centres = k_means(points, n, stream, mini_batch=n * len(points) > LLOYD_PAIRS)
    cluster, squared = nearest(points, centres)
    order = np.lexsort((squared, cluster))
    _, first, sizes = np.unique(cluster[order], return_index=True, return_counts=True)
    chosen = order[first[np.argsort(-sizes, kind="stable")]]
    return fill_at_random(chosen, len(points), n, stream)


def fill_at_random(chosen: IntArray, n_points: int, n: int, stream: np.random.Generator) -> IntArray:
    """Append rows drawn uniformly from those not chosen yet, up to ``n`` in all."""
    if len(chosen) >= n:
        return chosen
    rest = np.setdiff1d(np.arange(n_points), chosen)
    return np.concatenate([chosen, stream.permutation(rest)[: n - len(chosen)]])


def followed_by_rest(chosen: IntArray, n_points: int) -> IntArray:
    """Return the rows chosen and then all others, ascending ``[n_points]``."""
    return np.concatenate([chosen, np.setdiff1d(np.arange(n_points), chosen)])


def draw_row(weights: Float64Array, stream: np.random.Generator) -> int:
    """Draw a row in proportion to its weight, as k-means++ does, or -1 where no weight is left."""
    total = np.cumsum(weights)
    if total[-1] <= 0:
        return -1
    row = int(np.searchsorted(total, stream.random() * total[-1], side="right"))
    return min(row, int(np.flatnonzero(weights)[-1]))


def typicality(points: FloatArray) -> Float64Array:
    """Return how dense the surroundings of each point of one cluster are ``[n]``, high = typical.

    1 / (mean distance to the nearest ``min(20, n / 2)`` others + 1e-5), at least one other (Hacohen et al. 2022, arXiv
    2202.02794); a lone point has 0.
    """
    if len(points) == 1:
        return np.zeros(1)
    return 1.0 / (mean_distance_to_neighbors(points, max(1, min(N_NEIGHBORS, len(points) // 2))) + 1e-5)


def typical_rows(points: FloatArray, n_labeled: int, n: int, stream: np.random.Generator) -> IntArray:
    """Choose the most typical points of the clusters that have fewest labels (Hacohen et al. 2022, arXiv 2202.02794).

    k-means with ``min(n_labeled + n, 500)`` clusters over all points, on mini-batches above 50 clusters; clusters are
    visited by (fewest labelled points, then most points, then lowest number), round and round, and each visit takes the
    unlabelled point of highest typicality among those its cluster has left. Clusters of at most 5 points come only
    after all others are used up.

    Args:
        points: ``[n_points, n_features]``, the labelled ones first.
        n_labeled: how many of them are labelled.
        n: at most ``n_points - n_labeled``.
        stream: for k-means.

    Returns:
        rows ``[n]`` of ``points``, unique and none labelled; the lower row where two are as typical.
    """
    n_clusters = min(n_labeled + n, MAX_CLUSTERS)
    centres = k_means(points, n_clusters, stream, mini_batch=n_clusters > MAX_LLOYD_CLUSTERS)
    cluster, _ = nearest(points, centres)
    left = {int(c): n_labeled + np.flatnonzero(cluster[n_labeled:] == c) for c in np.unique(cluster)}
    chosen: list[int] = []
    for visits in _visits(cluster, n_labeled):
        while visits and len(chosen) < n:
            at = visits.popleft()
            if len(left[at]):
                best = int(np.argmax(typicality(points[left[at]])))
                chosen.append(int(left[at][best]))
                left[at] = np.delete(left[at], best)
                visits.append(at)
    return np.asarray(chosen, dtype=np.int64)


def _visits(cluster: IntArray, n_labeled: int) -> tuple[deque[int], deque[int]]:
    """Return the order in which clusters are visited: those that are large enough, and the small ones."""
    sizes = np.bincount(cluster)
    labeled = np.bincount(cluster[:n_labeled], minlength=len(sizes))
    order = np.lexsort((-sizes, labeled))
    large = sizes[order] > MIN_CLUSTER_SIZE
    small = (sizes[order] > 0) & ~large
    return deque(order[large].tolist()), deque(order[small].tolist())
