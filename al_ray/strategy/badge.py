"""BADGE: k-means++ seeding over gradient embeddings of the last layer."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from al_ray.core.clustering import draw_row
from al_ray.core.distances import settle, single, squared_norms
from al_ray.core.types import Float64Array, FloatArray, IntArray, PoolView, Ranking
from al_ray.core.uncertainty import label_errors
from al_ray.strategy import QueryStrategy, strategies


@strategies.register("badge")
@dataclass(frozen=True)
class Badge(QueryStrategy):
    """A diverse sample of the examples whose predicted label would move the classifier's weights most.

    Batch active learning by diverse gradient embeddings (Ash et al. 2020, arXiv 1906.03671, algorithm 1): the gradient
    of the loss for the predicted label by the last layer's weights, g = (p - onehot(argmax p)) outer h, is seeded as
    k-means++ seeds: the largest first, every further one with probability in proportion to its squared distance from
    the nearest one chosen. The embeddings are never built: ||a outer h||^2 = ||a||^2 ||h||^2, and <a outer h, b outer
    k> = <a, b> <h, k>. Once all that is left lies on chosen embeddings, the ranking decides.

    Deviation: several draws are averaged to one p.
    Deviation: h is what the head reads of the encoder's output, also where the head has a hidden layer.
    """

    source: ClassVar[str] = "Ash et al. 2020, arXiv 1906.03671"
    needs_features: ClassVar[bool] = True

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return the length of the gradient embedding ``[n_pool]``, 0 where the model is certain."""
        return np.sqrt(_Gradients(pool).norms)

    def pick(self, pool: PoolView, ranking: Ranking, n: int, stream: np.random.Generator) -> IntArray:
        """Return ``n`` ids seeded by k-means++; the first is the top of the ranking."""
        gradients = _Gradients(pool)
        row = int(np.searchsorted(pool.ids, ranking.ids[0]))
        chosen, nearest = [row], gradients.squared_distances_to(row)
        nearest[row] = 0.0
        while len(chosen) < n and (row := draw_row(nearest, stream)) >= 0:
            chosen.append(row)
            np.minimum(nearest, gradients.squared_distances_to(row), out=nearest)
            nearest[row] = 0.0
        ids = pool.ids[chosen]
        return np.concatenate([ids, ranking.ids[~np.isin(ranking.ids, ids)]])[:n]


class _Gradients:
    """The gradient embeddings of a pool, as their two factors.

    Attributes:
        norms: squared lengths ``[n_pool]``.
    """

    def __init__(self, pool: PoolView) -> None:
        assert pool.features is not None, "badge needs PoolView.features"
        self._errors = label_errors(pool.probs())
        self._features = single(pool.features)
        self.norms: Float64Array = (self._errors**2).sum(axis=1) * squared_norms(self._features)

    def squared_distances_to(self, row: int) -> Float64Array:
        """Return the squared distance of every embedding to one of them ``[n_pool]``."""
        scale = self.norms + self.norms[row]
        products = (self._errors @ self._errors[row]) * (self._features @ self._features[row])
        return settle(scale - 2.0 * products, scale)
