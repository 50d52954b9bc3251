"""Least confidence: lowest probability of the predicted class first."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from al_ray.core import uncertainty
from al_ray.core.types import FloatArray, PoolView
from al_ray.strategy import QueryStrategy, strategies


@strategies.register("least_confidence")
@dataclass(frozen=True)
class LeastConfidence(QueryStrategy):
    """Lowest probability of the predicted class first (Lewis and Gale 1994, arXiv cmp-lg/9407020)."""

    source: ClassVar[str] = "Lewis and Gale 1994, arXiv cmp-lg/9407020"

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return 1 - max p of the mean over draws ``[n_pool]``, in [0, 1 - 1/n_classes]."""
        return uncertainty.least_confidence(uncertainty.mean_log_probs(pool.log_probs))
