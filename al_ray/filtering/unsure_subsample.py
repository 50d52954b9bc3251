"""UPS, unlabelled pool subsampling: score mainly the examples that were last uncertain."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt

from al_ray.core.seeding import tie_keys
from al_ray.core.types import FloatArray, IntArray, UnscoredPool
from al_ray.filtering import CandidateFilter, filters
from al_ray.registry import Within


@filters.register("unsure_subsample")
@dataclass(frozen=True)
class UnsureSubsample(CandidateFilter):
    """Score mainly what the model was last unsure about (Tsvigun et al. 2022, arXiv 2205.03598, "UPS").

    With rank 0 for the highest last known score among N pool examples, each is kept with the probability
    ``exp(-max(0, rank / N - gamma) / temperature)``, independently. An example that never had a score ranks first. In
    ``full_rounds`` everything is scored, so that old scores do not go stale for ever.

    Deviation: the paper counts its rounds from 0 and scores everything in 0, 1, 4 and 8; a round index starts at 1
    here. Ties are settled by a hash of the id. At least as many as the query needs are kept, the best ranks first.

    Attributes:
        gamma: share of the pool that is always kept, in [0, 1].
        temperature: how slowly the probability falls beyond it, above 0; the paper's T.
        full_rounds: rounds that score the whole pool.
    """

    source: ClassVar[str] = "Tsvigun et al. 2022, arXiv 2205.03598"
    needs_last_scores: ClassVar[bool] = True
    gamma: Annotated[
        float, Within(ge=0, le=1, right="it must be in [0, 1]", advice="0.25 always keeps the unsurest quarter.")
    ] = 0.25
    temperature: Annotated[float, Within(gt=0, finite=True, advice="0.1 keeps a third of the pool.")] = 0.1
    full_rounds: tuple[Annotated[int, Within(ge=1, right="the first round that scores is round 1")], ...] = (1, 2, 5, 9)

    def select(self, pool: UnscoredPool, stream: np.random.Generator) -> IntArray:
        """Return the ids that were drawn, or all of them in a full round."""
        if pool.round_index in self.full_rounds:
            return pool.ids
        assert pool.last_scores is not None
        tie_seed, draw_seed = stream.integers(2**62, size=2).tolist()
        ranked = pool.ids[_by_uncertainty(pool.last_scores, tie_keys(pool.ids, tie_seed))]
        drawn = _uniform(ranked, draw_seed) < self.keep_probability(len(ranked))
        missing = pool.query_size - int(drawn.sum())
        if missing > 0:
            drawn[np.flatnonzero(~drawn)[:missing]] = True
        return ranked[drawn]

    def n_removed(self, n_candidates: int, query_size: int) -> int:
        """Return all but the share that is always kept, and but the query."""
        n_always = math.floor(self.gamma * n_candidates)
        return max(n_candidates - max(n_always, query_size), 0)

    def keep_probability(self, n_pool: int) -> FloatArray:
        """Return the probability with which each rank is kept ``[n_pool]``, the unsurest first."""
        excess = np.arange(n_pool) / max(n_pool, 1) - self.gamma
        return np.exp(-np.maximum(excess, 0.0) / self.temperature)


def _by_uncertainty(scores: FloatArray, keys: npt.NDArray[np.uint64]) -> IntArray:
    """Return the order of falling scores, NaN first."""
    never = np.isnan(scores)
    return np.lexsort((keys, -np.where(never, 0.0, scores), ~never))


def _uniform(ids: IntArray, seed: int) -> FloatArray:
    """Return a number in [0, 1) for every id; 53 bits of its hash, so that none rounds to 1."""
    return (tie_keys(ids, seed) >> np.uint64(11)) * 2.0**-53
