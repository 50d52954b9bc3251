"""BALD: largest mutual information between an example's label and the model."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from al_ray.core import disagreement
from al_ray.core.types import FloatArray, PoolView
from al_ray.strategy import QueryStrategy, strategies


@strategies.register("bald")
@dataclass(frozen=True)
class Bald(QueryStrategy):
    """Largest mutual information between the label and the model's weights first: unsure together, sure one by one.

    H(mean p) - mean H(p) over the draws (Houlsby et al. 2011, arXiv 1112.5745, eq. 2).
    """

    source: ClassVar[str] = "Houlsby et al. 2011, arXiv 1112.5745"
    min_draws: ClassVar[int] = 2

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return the mutual information in nats ``[n_pool]``, in [0, ln min(n_draws, n_classes)]."""
        return disagreement.mutual_information(pool.log_probs)
