"""Random start: a uniform sample of the training split."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from al_ray.core.seeding import tie_keys
from al_ray.core.types import IntArray, StartPool
from al_ray.initial import InitialQuery, initial_queries


@initial_queries.register("random")
@dataclass(frozen=True)
class RandomInitial(InitialQuery):
    """Uniform without replacement; a rare class may be missing from it, as in practice."""

    source: ClassVar[str] = "baseline"

    def pick(self, pool: StartPool, size: int, stream: np.random.Generator) -> IntArray:
        """Return ``size`` ids drawn uniformly; labels are not looked at."""
        order = np.argsort(tie_keys(pool.ids, int(stream.integers(2**62))))
        return pool.ids[order[:size]]
