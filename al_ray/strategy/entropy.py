"""Entropy sampling: highest entropy of the predicted distribution first."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from al_ray.core import uncertainty
from al_ray.core.types import FloatArray, PoolView
from al_ray.strategy import QueryStrategy, strategies


@strategies.register("entropy")
@dataclass(frozen=True)
class Entropy(QueryStrategy):
    """Highest Shannon entropy first (Shannon 1948; Holub et al. 2008 for active learning)."""

    source: ClassVar[str] = "Shannon 1948; Settles 2009, section 2.3"

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return the entropy in nats of the mean over draws ``[n_pool]``, in [0, ln n_classes]."""
        return uncertainty.entropy(uncertainty.mean_log_probs(pool.log_probs))
