"""Training dynamics: confidence and variability of the final prediction over the epochs of a fine-tune."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt

from al_ray.core.types import FloatArray, PoolView
from al_ray.registry import Within
from al_ray.strategy import QueryStrategy, strategies

CARTOGRAPHY = "Swayamdipta et al. 2020, arXiv 2009.10795"

Watched = Annotated[int, Within(ge=1, advice="2000 predicts 2,000 of the pool after every epoch.")]
"""Pool examples whose predictions are recorded after every epoch."""


@strategies.register("prediction_confidence")
@dataclass(frozen=True)
class PredictionConfidence(QueryStrategy):
    """Lowest mean probability, over the epochs of one fine-tune, of the class that it ended with first.

    The confidence axis of a dataset map (Swayamdipta et al. 2020, arXiv 2009.10795, section 2).

    Deviation: the paper follows the true class, which is unknown in a pool; here the class predicted after the last
    epoch stands for it. A pool larger than ``n_watched`` is subsampled.

    Attributes:
        n_watched: pool examples predicted after every epoch, and so the candidates of a round, at most.
    """

    source: ClassVar[str] = CARTOGRAPHY
    needs_scores: ClassVar[bool] = False
    n_watched: Watched = 2000

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return minus the mean probability ``[n_pool]``, in [-1, 0]."""
        return -_final_class_probs(pool).mean(axis=1)


@strategies.register("prediction_variability")
@dataclass(frozen=True)
class PredictionVariability(QueryStrategy):
    """Largest spread, over the epochs of one fine-tune, of the probability of the class that it ended with first.

    The variability axis of a dataset map, a population standard deviation (Swayamdipta et al. 2020, arXiv 2009.10795,
    section 2).

    Deviation: the paper follows the true class, which is unknown in a pool; here the class predicted after the last
    epoch stands for it. A pool larger than ``n_watched`` is subsampled.

    Attributes:
        n_watched: pool examples predicted after every epoch, and so the candidates of a round, at most.
    """

    source: ClassVar[str] = CARTOGRAPHY
    needs_scores: ClassVar[bool] = False
    n_watched: Watched = 2000

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return the standard deviation ``[n_pool]``, in [0, 1/2]."""
        return _final_class_probs(pool).std(axis=1)


def _final_class_probs(pool: PoolView) -> npt.NDArray[np.float64]:
    """Return the probability of the class predicted last, after every epoch ``[n_pool, n_epochs]``."""
    assert pool.dynamics is not None, "training dynamics need PoolView.dynamics"
    final = pool.dynamics[:, -1].argmax(axis=1)
    return np.exp(np.take_along_axis(pool.dynamics, final[:, None, None], axis=2)[..., 0], dtype=np.float64)
