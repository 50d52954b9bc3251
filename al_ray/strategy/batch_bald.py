"""BatchBALD: the batch with the largest joint mutual information between its labels and the model."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from al_ray.core import disagreement
from al_ray.core.joint_information import choose_jointly
from al_ray.core.types import FloatArray, IntArray, PoolView, Ranking
from al_ray.registry import Within
from al_ray.strategy import QueryStrategy, strategies


@strategies.register("batch_bald")
@dataclass(frozen=True)
class BatchBald(QueryStrategy):
    """Greedy batch of the largest joint mutual information between its labels and the model's weights.

    Kirsch et al. 2019 (arXiv 1906.08158, algorithm 1): the next example is the one that adds most to I(y_1..y_n; w), so
    that a near duplicate of one that is already in the batch adds little. The gain is computed as the mean, over
    configurations c of the labels chosen so far, of I(y; w | c): the paper's joint entropies less terms that are the
    same for every candidate. Configurations are enumerated while there are at most ``n_samples`` (exact), then sampled
    from the draws, equally many of each. A draw has to be one model for all examples. Draws can tell at most
    ln n_draws nats in all: once nothing adds more than rounding, the ranking by ``bald`` decides.

    Deviation: only the ``max_candidates`` highest by ``bald`` are considered, or as many as the batch needs.

    Attributes:
        max_candidates: highest-ranked examples that are considered; never fewer than the query size.
        n_samples: configurations of labels at most.
    """

    source: ClassVar[str] = "Kirsch et al. 2019, arXiv 1906.08158"
    min_draws: ClassVar[int] = 2
    needs_consistent_draws: ClassVar[bool] = True
    max_candidates: Annotated[int, Within(ge=1, advice="2000 considers the 2,000 examples of highest BALD score.")] = (
        2000
    )
    n_samples: Annotated[int, Within(ge=1, advice="2000 is exact for 10 examples of 2 classes.")] = 2000

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return the mutual information of single examples in nats ``[n_pool]``, as ``bald`` does."""
        return disagreement.mutual_information(pool.log_probs)

    def pick(self, pool: PoolView, ranking: Ranking, n: int, stream: np.random.Generator) -> IntArray:
        """Return the greedy batch ``[n]`` in the order of choice; equal gains keep the order of the ranking."""
        ids = ranking.ids[: max(n, self.max_candidates)]
        log_probs = disagreement.finite_log_probs(pool.log_probs[np.searchsorted(pool.ids, ids)])
        return ids[choose_jointly(log_probs, n, self.n_samples, stream)]
