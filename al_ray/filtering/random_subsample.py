"""Random pool subsampling: let the model score a fresh uniform subset only."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from al_ray.core.seeding import tie_keys
from al_ray.core.types import IntArray, UnscoredPool
from al_ray.filtering import CandidateFilter, filters
from al_ray.registry import Within


@filters.register("random_subsample")
@dataclass(frozen=True)
class RandomSubsample(CandidateFilter):
    """Score a uniform subset of ``size`` pool examples, drawn anew every round.

    What bounds the cost of scoring when the pool is large, and the baseline of every cleverer subset. A pool of
    ``size`` or fewer is left as it is. The draw hangs on each example's id and the stream, not on its place.

    Attributes:
        size: examples to score, at least the query size.
    """

    source: ClassVar[str] = "baseline"
    size: Annotated[int, Within(ge=1, advice="10000 scores so many examples a round.")] = 10_000

    def select(self, pool: UnscoredPool, stream: np.random.Generator) -> IntArray:
        """Return the ``size`` ids with the smallest hash."""
        keys = tie_keys(pool.ids, int(stream.integers(2**62)))
        return pool.ids[np.argsort(keys)[: self.size]]

    def n_removed(self, n_candidates: int, query_size: int) -> int:
        """Return what exceeds ``size``; a size below the query size leaves too few, which a study is told at once."""
        return max(n_candidates - self.size, 0)
