"""Margin sampling: smallest gap between the two likeliest classes first."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from al_ray.core import uncertainty
from al_ray.core.types import FloatArray, PoolView
from al_ray.strategy import QueryStrategy, strategies


@strategies.register("margin")
@dataclass(frozen=True)
class Margin(QueryStrategy):
    """Smallest gap between the two likeliest classes first, "breaking ties" (Scheffer et al. 2001; Luo et al. 2005)."""

    source: ClassVar[str] = "Scheffer et al. 2001, doi 10.1007/3-540-44816-0_31"

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return 1 - (p_1 - p_2) of the mean over draws ``[n_pool]``, in [0, 1]."""
        return uncertainty.margin(uncertainty.mean_log_probs(pool.log_probs))
