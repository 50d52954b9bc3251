"""LCMD: the farthest example of the largest cluster round labelled examples."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from al_ray.core.distances import nearest, single, squared_distances_to, squared_norms
from al_ray.core.types import FloatArray, IntArray, PoolView, Ranking
from al_ray.strategy import QueryStrategy, strategies


@strategies.register("lcmd")
@dataclass(frozen=True)
class Lcmd(QueryStrategy):
    """The farthest example of the cluster that is heaviest, again and again: core-set that minds where the pool is.

    Largest cluster, maximum distance (Holzmueller et al. 2023, arXiv 2203.09410): every labelled or chosen example is a
    centre, every candidate belongs to its nearest one, and a cluster weighs the sum of its squared distances. The
    candidate farthest from the centre of the heaviest cluster becomes a centre. Without labelled examples the longest
    feature vector is the first. The first of several centres as near is that of the lower id or, after the labelled
    ones, the earlier choice; of several candidates as far, in one heaviest cluster or in several, the ranking decides.

    Deviation: the distances are those of the features that the head reads; the paper's best kernel is that of gradients
    by all layers, randomly projected.
    """

    source: ClassVar[str] = "Holzmueller et al. 2023, arXiv 2203.09410"
    needs_features: ClassVar[bool] = True
    needs_labeled: ClassVar[bool] = True

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return the distance to the nearest labelled example ``[n_pool]``, or the length of the features without."""
        assert pool.features is not None, "lcmd needs PoolView.features"
        assert pool.labeled_features is not None, "lcmd needs PoolView.labeled_features"
        if not len(pool.labeled):
            return np.sqrt(squared_norms(pool.features))
        return np.sqrt(nearest(pool.features, pool.labeled_features)[1])

    def pick(self, pool: PoolView, ranking: Ranking, n: int, stream: np.random.Generator) -> IntArray:
        """Return ``n`` ids in the order of choice."""
        assert pool.features is not None, "lcmd needs PoolView.features"
        assert pool.labeled_features is not None, "lcmd needs PoolView.labeled_features"
        assert len(ranking) == len(pool), "the ranking has other candidates than the pool"
        features = single(pool.features)
        norms = squared_norms(features)
        place = np.empty(len(pool), dtype=np.int64)
        place[np.searchsorted(pool.ids, ranking.ids)] = np.arange(len(pool))
        n_labeled, chosen = len(pool.labeled), list[int]()
        if n_labeled:
            cluster, squared = nearest(features, pool.labeled_features)
        else:
            cluster, squared = np.zeros(len(pool), dtype=np.int64), np.full(len(pool), np.inf)
        while True:
            weights = np.bincount(cluster, squared)
            far = np.where(weights[cluster] == weights.max(), squared, -1.0)
            far[chosen] = -1.0
            farthest = np.flatnonzero(far == far.max())
            row = int(farthest[np.argmin(place[farthest])])
            chosen.append(row)
            if len(chosen) == n:
                return pool.ids[chosen]
            distances = squared_distances_to(features, norms, row)
            closer = distances < squared
            cluster[closer] = n_labeled + len(chosen) - 1
            squared[closer] = distances[closer]
            squared[row] = 0.0
