"""TiDAL: uncertainty of the mean prediction over a fit's epochs, foretold for examples that were not watched."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np

from al_ray.core.distances import row_blocks, squared_norms
from al_ray.core.logistic import logistic_regression
from al_ray.core.types import Float64Array, FloatArray, PoolView
from al_ray.core.uncertainty import entropy, log_softmax
from al_ray.registry import Within
from al_ray.strategy import QueryStrategy, strategies


@strategies.register("tidal")
@dataclass(frozen=True)
class Tidal(QueryStrategy):
    """The examples whose prediction a fit would have left unsettled, as a side head foretells it.

    Training dynamics for active learning (Kye et al. 2023, arXiv 2210.06788): the dynamics of an example are the mean,
    over the epochs of a fit, of its softmax. They are known of the labelled examples, and a side head on the features
    learns to foretell them by KL(dynamics || foretold); of the pool it says how each example would have been learned.
    Query by the ``entropy`` of the foretold dynamics, or by their ``margin``: 1 - (the class that the model predicts -
    the best other class).

    Deviation: the authors train a side head on four stages of a residual network together with the classifier. This
    one is a linear head on the features of the fitted model, fitted after it: multinomial logistic regression with the
    dynamics as soft labels, which has one solution. Features are scaled so that those of the labelled examples have a
    mean square length of 1.
    Deviation: the mean is over all epochs done, also those after the best one, and of labelled examples that are held
    out for early stopping too. Of an ensemble the first member is watched.

    Attributes:
        by: what of the foretold dynamics counts.
        l2: weight of half the squared weights and intercepts of the side head, beside the summed divergence.
    """

    source: ClassVar[str] = "Kye et al. 2023, arXiv 2210.06788"
    needs_features: ClassVar[bool] = True
    needs_labeled: ClassVar[bool] = True
    needs_labeled_dynamics: ClassVar[bool] = True
    by: Literal["entropy", "margin"] = "entropy"
    l2: Annotated[float, Within(gt=0, finite=True, advice="0.1 is that of the frozen learner.")] = 0.1

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return the entropy in nats, or 1 - the margin, in [0, 2] ``[n_pool]``."""
        foretold = self._foretold(pool)
        if self.by == "entropy":
            return entropy(foretold)
        probs, rows = np.exp(foretold), np.arange(len(pool))
        predicted = pool.probs().argmax(axis=1)
        believed = probs[rows, predicted]
        probs[rows, predicted] = -np.inf
        return 1.0 - (believed - probs.max(axis=1))

    def _foretold(self, pool: PoolView) -> Float64Array:
        """Return the logarithm of the foretold dynamics ``[n_pool, n_classes]``."""
        assert pool.features is not None, "tidal needs PoolView.features"
        assert pool.labeled_features is not None, "tidal needs PoolView.labeled_features"
        assert pool.labeled_dynamics is not None, "tidal needs PoolView.labeled_dynamics"
        dynamics = np.exp(np.asarray(pool.labeled_dynamics, dtype=np.float64)).mean(axis=1)
        length = np.sqrt(squared_norms(pool.labeled_features).mean()) or 1.0
        labeled = np.asarray(pool.labeled_features, dtype=np.float64) / length
        weight, bias, *_ = logistic_regression(labeled, dynamics, pool.n_classes, l2=self.l2)
        logits = np.empty((len(pool), pool.n_classes))
        for rows in row_blocks(len(pool), pool.features.shape[1]):
            logits[rows] = pool.features[rows] @ (weight.T / length) + bias
        return log_softmax(logits)
