"""Random sampling: the baseline of every comparison."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from al_ray.core.seeding import tie_keys
from al_ray.core.types import FloatArray, PoolView
from al_ray.strategy import QueryStrategy, strategies


@strategies.register("random")
@dataclass(frozen=True)
class Random(QueryStrategy):
    """Uniform without replacement: passive learning at the same budget, the baseline of every comparison."""

    source: ClassVar[str] = "baseline"
    needs_scores: ClassVar[bool] = False

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return a uniform number in [0, 1) for every example ``[n_pool]``.

        The number hangs on the example's id and the stream, not on its place, so that pool order cannot matter.
        """
        return tie_keys(pool.ids, int(stream.integers(2**62))) / 2.0**64
