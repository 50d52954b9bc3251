"""Random sample: texts at random measure the model."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from al_ray.core.intervals import wilson
from al_ray.core.seeding import tie_keys
from al_ray.core.types import Draws, Float64Array, FloatArray, IntArray
from al_ray.evaluation import Estimate, Evaluation, evaluations
from al_ray.registry import Within

_ORDER = 11  # of the hash that sorts the texts; any number would do


@evaluations.register("random_sample")
@dataclass(frozen=True)
class RandomSample(Evaluation):
    """Measure the model by ``n`` texts drawn at random, with the interval of Wilson (1927).

    They are drawn in the order of a hash of their ids, so that it is known beforehand which come next. Texts that an
    annotator abstains on are left out: what is estimated is the loss on texts that have a class.

    Attributes:
        n: texts in all; at most half of the pool.
        share: texts drawn beside a query, as a share of its size.
    """

    source: ClassVar[str] = "Wilson 1927, doi 10.1080/01621459.1927.10502953"
    n: Annotated[int, Within(ge=1)] = 200
    share: Annotated[float, Within(gt=0, le=10)] = 0.25

    def n_held_out(self, n_pool: int) -> int:
        """Return ``n``, or half of the pool where that is less."""
        return min(self.n, n_pool // 2)

    def n_per_round(self, query_size: int) -> int:
        """Return the share of the query's size, at least 1."""
        return max(1, round(self.share * query_size))

    def draw(self, ids: IntArray, probs: FloatArray | None, drawn: Draws, n: int, stream: np.random.Generator) -> Draws:
        """Return the next texts in an order that never changes."""
        left = np.setdiff1d(ids, drawn.ids)
        new = left[np.argsort(tie_keys(left, _ORDER))[:n]]
        return Draws(ids=new, proposals=1 / (len(left) - np.arange(len(new), dtype=np.float64)))

    def estimate(self, drawn: Draws, losses: Float64Array, n_test_pool: int) -> Estimate | None:
        """Return the mean loss of those that were answered."""
        known = losses[~np.isnan(losses)]
        if not len(known):
            return None
        share = float(known.mean())
        low, high = wilson(share, len(known))
        return Estimate(value=share, low=low, high=high, n=len(known))
