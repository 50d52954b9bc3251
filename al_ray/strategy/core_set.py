"""Core-set: greedy k-center over features, no example far from a labelled one."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from al_ray.core.distances import farthest_first, nearest, single, squared_distances_to, squared_norms
from al_ray.core.types import FloatArray, IntArray, PoolView, Ranking
from al_ray.strategy import QueryStrategy, strategies


@strategies.register("core_set")
@dataclass(frozen=True)
class CoreSet(QueryStrategy):
    """The example farthest from all labelled and chosen ones, again and again: it covers the pool, outliers first.

    k-center greedy (Sener and Savarese 2018, arXiv 1708.00489, algorithm 1) by Euclidean distance of the fine-tuned
    model's features: at most twice the radius of the best cover of that size. Where several are as far, the first is
    taken by the ranking and the others by the lower id.

    Deviation: the greedy solution is not refined by the paper's mixed integer program.
    """

    source: ClassVar[str] = "Sener and Savarese 2018, arXiv 1708.00489"
    needs_features: ClassVar[bool] = True
    needs_labeled: ClassVar[bool] = True

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return the distance to the nearest labelled example ``[n_pool]``."""
        assert pool.features is not None, "core_set needs PoolView.features"
        assert pool.labeled_features is not None, "core_set needs PoolView.labeled_features"
        return np.sqrt(nearest(pool.features, pool.labeled_features)[1])

    def pick(self, pool: PoolView, ranking: Ranking, n: int, stream: np.random.Generator) -> IntArray:
        """Return ``n`` ids, each the farthest from what is labelled and chosen; the first is the top of the ranking."""
        assert pool.features is not None, "core_set needs PoolView.features"
        assert len(ranking) == len(pool), "the ranking has other candidates than the pool"
        features = single(pool.features)
        norms = squared_norms(features)
        rows = np.searchsorted(pool.ids, ranking.ids)
        squared = np.empty(len(pool))
        squared[rows] = ranking.scores**2
        chosen = farthest_first(int(rows[0]), squared, lambda row: squared_distances_to(features, norms, row), n)
        return pool.ids[chosen]
