"""CAL, contrastive active learning: predictions that differ from those on the nearest labelled texts."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from al_ray.core.disagreement import BLOCK_ROWS, finite_log_probs
from al_ray.core.distances import double_unit_rows
from al_ray.core.types import Float64Array, FloatArray, IntArray, PoolView
from al_ray.core.uncertainty import mean_log_probs
from al_ray.registry import Within
from al_ray.strategy import QueryStrategy, strategies


@strategies.register("cal")
@dataclass(frozen=True)
class Cal(QueryStrategy):
    """Largest divergence from the predictions on the nearest labelled texts first: close in features, far in belief.

    Contrastive active learning (Margatina et al. 2021, arXiv 2109.03764, algorithm 1): the mean over the nearest
    labelled examples l of KL(p(l) || p(x)), neighbours by Euclidean distance of unit-length features of the fine-tuned
    model. With fewer labelled examples than neighbours all of them are used.

    Deviation: a probability of exactly 0 counts as exp(-1e39), so that the divergence stays finite.

    Attributes:
        n_neighbors: labelled examples to compare with; 10 in the paper.
    """

    source: ClassVar[str] = "Margatina et al. 2021, arXiv 2109.03764"
    needs_features: ClassVar[bool] = True
    needs_labeled: ClassVar[bool] = True
    n_neighbors: Annotated[int, Within(ge=1, advice="10 is the paper's value.")] = 10

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return the mean divergence in nats ``[n_pool]``, 0 or more; draws are averaged first."""
        assert pool.features is not None, "cal needs PoolView.features"
        assert pool.labeled_features is not None, "cal needs PoolView.labeled_features"
        assert pool.labeled_log_probs is not None, "cal needs PoolView.labeled_log_probs"
        log_labeled = mean_log_probs(finite_log_probs(pool.labeled_log_probs))
        labeled = double_unit_rows(pool.labeled_features)
        k = min(self.n_neighbors, len(labeled))
        scores = np.empty(len(pool))
        for start in range(0, len(pool), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            near = _nearest(double_unit_rows(pool.features[rows]), labeled, k)
            own = mean_log_probs(finite_log_probs(pool.log_probs[rows]))
            scores[rows] = _mean_divergence(log_labeled[near], own)
        return scores


def _nearest(queries: FloatArray, points: FloatArray, k: int) -> IntArray:
    """Return the rows of the ``k`` points nearest to each query ``[n, k]``, in no order."""
    # |q - p|^2 = |q|^2 + |p|^2 - 2 q.p, and |q| moves no order; |p| is 0 instead of 1 for a row of zeros.
    distance = (points**2).sum(axis=1) - 2.0 * (queries @ points.T)
    return np.argpartition(distance, k - 1, axis=1)[:, :k]


def _mean_divergence(log_near: FloatArray, log_own: FloatArray) -> Float64Array:
    """Return the mean over neighbours ``[n, k, n_classes]`` of KL(neighbour || own ``[n, n_classes]``)."""
    divergence = (np.exp(log_near) * (log_near - log_own[:, None])).sum(axis=2)
    return np.maximum(divergence.mean(axis=1), 0.0)
