"""Label dispersion: how often the predicted class changed over the epochs of a fine-tune."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from al_ray.core.disagreement import vote_counts
from al_ray.core.types import FloatArray, PoolView
from al_ray.strategy import QueryStrategy, strategies
from al_ray.strategy.training_dynamics import Watched


@strategies.register("label_dispersion")
@dataclass(frozen=True)
class LabelDispersion(QueryStrategy):
    """Least settled predicted class over the epochs of one fine-tune first.

    1 - f / T, where f of T epochs gave the most frequent prediction (Zolfaghari Bengar et al. 2021, arXiv 2107.14707).
    Every epoch counts, the first one too. With T epochs there are at most T values, so that many examples tie; the loop
    settles ties by a hash of the id.

    Deviation: a pool larger than ``n_watched`` is subsampled; the paper watches all of it.

    Attributes:
        n_watched: pool examples predicted after every epoch, and so the candidates of a round, at most.
    """

    source: ClassVar[str] = "Zolfaghari Bengar et al. 2021, arXiv 2107.14707"
    needs_scores: ClassVar[bool] = False
    n_watched: Watched = 2000

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return the dispersion ``[n_pool]``, in [0, 1 - 1 / min(n_epochs, n_classes)]."""
        assert pool.dynamics is not None, "label_dispersion needs PoolView.dynamics"
        n_epochs = pool.dynamics.shape[1]
        return (n_epochs - vote_counts(pool.dynamics).max(axis=1)) / n_epochs
