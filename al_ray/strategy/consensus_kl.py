"""Consensus KL: mean divergence of the committee's members from their average prediction."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from al_ray.core import disagreement
from al_ray.core.types import FloatArray, PoolView
from al_ray.strategy import QueryStrategy, strategies


@strategies.register("consensus_kl")
@dataclass(frozen=True)
class ConsensusKL(QueryStrategy):
    """Largest mean divergence of the committee's members from their average prediction first.

    Query by committee with mean_m KL(p_m || mean p) (McCallum and Nigam 1998). The same number as ``bald``, which came
    to it from another side; both names are kept so that a study can cite what it means.
    """

    source: ClassVar[str] = "McCallum and Nigam 1998, ICML"
    min_draws: ClassVar[int] = 2

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return the mean over draws of KL(p || mean p) in nats ``[n_pool]``, in [0, ln min(n_draws, n_classes)]."""
        return disagreement.mutual_information(pool.log_probs)
