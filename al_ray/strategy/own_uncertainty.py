"""Own uncertainty: the confidence method's own measure, highest first."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from al_ray.core.types import FloatArray, PoolView
from al_ray.strategy import QueryStrategy, strategies


@strategies.register("own_uncertainty")
@dataclass(frozen=True)
class OwnUncertainty(QueryStrategy):
    """Highest of the confidence method's own measure first, which need not be a function of the probabilities.

    Vacuity of ``evidential`` (Sensoy et al. 2018, arXiv 1806.01768), free energy of ``energy`` (Liu et al. 2020, arXiv
    2010.03759), distance ratio of ``trust_score`` (Jiang et al. 2018, arXiv 1805.11783), inhibited mass of
    ``inhibited_softmax`` (Mozejko et al. 2018, arXiv 1810.01861).
    """

    source: ClassVar[str] = "Sensoy et al. 2018, arXiv 1806.01768 (and the source of each confidence method)"
    needs_uncertainty: ClassVar[bool] = True

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return the measure as the confidence method gives it ``[n_pool]``, in its unit; may be negative."""
        assert pool.uncertainty is not None, "own_uncertainty needs PoolView.uncertainty"
        return np.asarray(pool.uncertainty, dtype=np.float64)
