"""DropQuery: examples whose predicted class dropout changes, one of every k-means cluster."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from al_ray.core.clustering import fill_at_random, representatives
from al_ray.core.distances import unit_rows
from al_ray.core.types import FloatArray, IntArray, PoolView, Ranking
from al_ray.strategy import QueryStrategy, strategies

CANDIDATES_PER_QUERY = 25


@strategies.register("drop_query")
@dataclass(frozen=True)
class DropQuery(QueryStrategy):
    """Examples whose predicted class most dropout passes change, one from each k-means cluster of them.

    Gupte et al. 2024 (arXiv 2401.14555): a candidate has more than half of its draws disagree with the
    prediction without dropout; with fewer than 25 candidates for each label asked for, the bar is lowered by one draw
    after another, down to a single one. The candidates' features, scaled to unit length, are clustered, and the one
    nearest to each centre is asked. Fewer candidates than labels are all asked, and the others drawn at random. Meant
    for the confidence ``{name: mc_dropout, where: head, rate: 0.75, n_passes: 3}``, the paper's three passes.

    Deviation: features are those of the fine-tuned model, not of a frozen foundation model.
    """

    source: ClassVar[str] = "Gupte et al. 2024, arXiv 2401.14555"
    min_draws: ClassVar[int] = 3
    needs_features: ClassVar[bool] = True
    needs_predicted: ClassVar[bool] = True

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return the share of draws that predict another class than the model without dropout ``[n_pool]``."""
        return _disagreeing(pool) / pool.log_probs.shape[1]

    def pick(self, pool: PoolView, ranking: Ranking, n: int, stream: np.random.Generator) -> IntArray:
        """Return ``n`` ids, the candidate nearest to the centre of the largest cluster first."""
        assert pool.features is not None, "drop_query needs PoolView.features"
        rows = candidate_rows(_disagreeing(pool), pool.log_probs.shape[1], n)
        if len(rows) < n:
            return pool.ids[fill_at_random(rows, len(pool), n, stream)]
        return pool.ids[rows[representatives(unit_rows(pool.features[rows]), n, stream)]]


def candidate_rows(n_disagreeing: IntArray, n_draws: int, n: int) -> IntArray:
    """Return the rows that may be asked for: at least 25 x n of them, or all of which any draw disagrees.

    Args:
        n_disagreeing: draws that predict another class ``[n_pool]``.
        n_draws: of how many.
        n: how many will be asked for.
    """
    bar = n_draws // 2 + 1
    while bar > 1 and np.count_nonzero(n_disagreeing >= bar) < CANDIDATES_PER_QUERY * n:
        bar -= 1
    return np.flatnonzero(n_disagreeing >= bar)


def _disagreeing(pool: PoolView) -> IntArray:
    assert pool.predicted is not None, "drop_query needs PoolView.predicted"
    return np.count_nonzero(pool.log_probs.argmax(axis=2) != pool.predicted[:, None], axis=1)
