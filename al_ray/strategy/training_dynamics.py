"""Training dynamics: how the prediction moved over the epochs of a fine-tune."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from al_ray.core.disagreement import vote_counts
from al_ray.core.types import Float64Array, FloatArray, PoolView
from al_ray.registry import Within
from al_ray.strategy import QueryStrategy, strategies


@dataclass(frozen=True)
class _TrainingDynamics(QueryStrategy):
    """Strategies that follow some of the pool through one fine-tune.

    Attributes:
        n_watched: pool examples predicted after every epoch, and so the candidates of a round, at most.
    """

    source: ClassVar[str] = "Swayamdipta et al. 2020, arXiv 2009.10795"
    needs_scores: ClassVar[bool] = False
    n_watched: Annotated[int, Within(ge=1, advice="2000 predicts 2,000 of the pool after every epoch.")] = 2000


@strategies.register("prediction_confidence")
@dataclass(frozen=True)
class PredictionConfidence(_TrainingDynamics):
    """Lowest mean probability, over the epochs of one fine-tune, of the class that it ended with first.

    The confidence axis of a dataset map (Swayamdipta et al. 2020, arXiv 2009.10795, section 2).

    Deviation: the paper follows the true class, which is unknown in a pool; here the class predicted after the last
    epoch stands for it. A pool larger than ``n_watched`` is subsampled.
    """

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return minus the mean probability ``[n_pool]``, in [-1, 0]."""
        return -_final_class_probs(pool).mean(axis=1)


@strategies.register("prediction_variability")
@dataclass(frozen=True)
class PredictionVariability(_TrainingDynamics):
    """Largest spread, over the epochs of one fine-tune, of the probability of the class that it ended with first.

    The variability axis of a dataset map, a population standard deviation (Swayamdipta et al. 2020, arXiv 2009.10795,
    section 2). Deviations as of ``prediction_confidence``.
    """

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return the standard deviation ``[n_pool]``, in [0, 1/2]."""
        return _final_class_probs(pool).std(axis=1)


@strategies.register("label_dispersion")
@dataclass(frozen=True)
class LabelDispersion(_TrainingDynamics):
    """Least settled predicted class over the epochs of one fine-tune first.

    1 - f / T, where f of T epochs gave the most frequent prediction (Zolfaghari Bengar et al. 2021, arXiv 2107.14707).
    Every epoch counts, the first one too. With T epochs there are at most T values, so that many examples tie; the loop
    settles ties by a hash of the id.

    Deviation: a pool larger than ``n_watched`` is subsampled; the paper watches all of it.
    """

    source: ClassVar[str] = "Zolfaghari Bengar et al. 2021, arXiv 2107.14707"

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return the dispersion ``[n_pool]``, in [0, 1 - 1 / min(n_epochs, n_classes)]."""
        assert pool.dynamics is not None, "label_dispersion needs PoolView.dynamics"
        n_epochs = pool.dynamics.shape[1]
        return (n_epochs - vote_counts(pool.dynamics).max(axis=1)) / n_epochs


def _final_class_probs(pool: PoolView) -> Float64Array:
    """Return the probability of the class predicted last, after every epoch ``[n_pool, n_epochs]``."""
    assert pool.dynamics is not None, "training dynamics need PoolView.dynamics"
    final = pool.dynamics[:, -1].argmax(axis=1)
    return np.exp(np.take_along_axis(pool.dynamics, final[:, None, None], axis=2)[..., 0], dtype=np.float64)
