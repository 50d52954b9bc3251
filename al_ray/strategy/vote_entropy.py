"""Vote entropy: widest split of the committee's hard votes first."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from al_ray.core import disagreement
from al_ray.core.types import FloatArray, PoolView
from al_ray.strategy import QueryStrategy, strategies


@strategies.register("vote_entropy")
@dataclass(frozen=True)
class VoteEntropy(QueryStrategy):
    """Widest split of the committee's hard votes first.

    Query by committee with vote entropy, -sum_c (v_c / n_draws) ln(v_c / n_draws) (Dagan and Engelson 1995). A small
    committee knows only a few splits, so that many examples tie; the loop settles ties by a hash of the id.

    Deviation: in nats, without the paper's constant normaliser; the order is the same.
    """

    source: ClassVar[str] = "Dagan and Engelson 1995, doi 10.1016/B978-1-55860-377-6.50027-X"
    min_draws: ClassVar[int] = 2

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return the entropy of the votes in nats ``[n_pool]``, in [0, ln min(n_draws, n_classes)]."""
        return disagreement.vote_entropy(pool.log_probs)
