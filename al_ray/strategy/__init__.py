"""Query strategies: which examples to ask for next, from arrays about the pool."""

from typing import ClassVar, Protocol

import numpy as np

from al_ray.core.types import FloatArray, PoolView
from al_ray.registry import Registry


class QueryStrategy(Protocol):
    """Scores the pool; high = query first. Pure: the same view and stream give the same scores, in any pool order.

    A strategy inherits from this class and declares only what differs from the defaults.

    Attributes:
        name: what a study file calls it.
        min_draws: predictions per example that it needs.
        needs_features: whether it reads ``PoolView.features``.
        needs_scores: whether the pool has to be scored by the model at all.
        labels_everything: whether the initial query is the whole pool, so that nothing is left to choose.
    """

    name: ClassVar[str]
    min_draws: ClassVar[int] = 1
    needs_features: ClassVar[bool] = False
    needs_scores: ClassVar[bool] = True
    labels_everything: ClassVar[bool] = False

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return the acquisition value of every example ``[n_pool]``."""
        ...


strategies: Registry[QueryStrategy] = Registry("query strategy", "al_ray.strategy")
