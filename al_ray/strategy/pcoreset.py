"""PCoreSet: core-set in the space of predictions, no example predicted unlike all labelled ones."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from al_ray.core.distances import farthest_first, row_blocks
from al_ray.core.types import Float64Array, FloatArray, IntArray, PoolView, Ranking
from al_ray.strategy import QueryStrategy, strategies


@strategies.register("pcoreset")
@dataclass(frozen=True)
class PCoreSet(QueryStrategy):
    """The example whose prediction is farthest from those of all labelled and chosen ones, again and again.

    Greedy k-center (as in ``core_set``) by Euclidean distance of the class probabilities (Kang et al. 2025, arXiv
    2506.00910), those of the labelled examples being the centres at the start. Distances are sums of squared
    differences, so that very sure predictions are still told apart. Where several are as far the ranking decides; it is
    a hash of id and seed alone where nothing is labelled.

    Deviation: the selection only. The paper distils a teacher that sees images and texts into a second head, and
    measures distances of the mean of both heads' probabilities; here there is one head and no teacher.
    Deviation: several draws are averaged to one prediction.
    """

    source: ClassVar[str] = "Kang et al. 2025, arXiv 2506.00910"
    needs_labeled: ClassVar[bool] = True

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return the distance to the nearest labelled prediction ``[n_pool]``, in [0, sqrt 2]; 0 without any."""
        assert pool.labeled_log_probs is not None, "pcoreset needs PoolView.labeled_log_probs"
        if not len(pool.labeled):
            return np.zeros(len(pool))
        labeled = np.exp(np.asarray(pool.labeled_log_probs, dtype=np.float64)).mean(axis=1)
        return np.sqrt(_squared_to_nearest(pool.probs(), labeled))

    def pick(self, pool: PoolView, ranking: Ranking, n: int, stream: np.random.Generator) -> IntArray:
        """Return ``n`` ids, each the farthest from what is labelled and chosen; the first is the top of the ranking."""
        from scipy.spatial.distance import cdist

        assert len(ranking) == len(pool), "the ranking has other candidates than the pool"
        probs = pool.probs()[np.searchsorted(pool.ids, ranking.ids)]
        squared = ranking.scores**2 if len(pool.labeled) else np.full(len(pool), np.inf)
        chosen = farthest_first(0, squared, lambda row: cdist(probs, probs[[row]], "sqeuclidean")[:, 0], n)
        return ranking.ids[chosen]


def _squared_to_nearest(points: Float64Array, centres: Float64Array) -> Float64Array:
    from scipy.spatial.distance import cdist

    squared = np.empty(len(points))
    for rows in row_blocks(len(points), len(centres)):
        squared[rows] = cdist(points[rows], centres, "sqeuclidean").min(axis=1)
    return squared
