"""Margin for open sets: uncertain, and not of the kind that was of no class."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from al_ray.core import uncertainty
from al_ray.core.distances import row_blocks
from al_ray.core.logistic import logistic_regression
from al_ray.core.types import Float64Array, FloatArray, PoolView
from al_ray.core.uncertainty import log_softmax
from al_ray.registry import Within
from al_ray.strategy import QueryStrategy, strategies


@strategies.register("open_set_margin")
@dataclass(frozen=True)
class OpenSetMargin(QueryStrategy):
    """Smallest gap between the two likeliest classes first, unless the text resembles those that were of no class.

    After BUAL (Zong et al. 2024, arXiv 2402.15198), whose query is the lowest w c_neg + r (1 - w) c_pos. There w is how
    likely the text is of no class, by an auxiliary classifier of n_classes + 1 classes that is trained on all answers,
    "of no class" among them; c_pos is the confidence of the model (here the gap p_1 - p_2); r is the share of a query
    that had a class; and c_neg is the confidence of a model that was pushed, by negative learning with random labels of
    the pool, to be sure about texts of no class. Before anything was of no class this is margin.

    Deviation: no model is trained by negative learning, since a strategy sees no model: c_neg is 1, where that training
    drives texts of no class. So this is no BUAL, and has another name.
    Deviation: the auxiliary classifier is logistic regression on the model's features, not a second network.
    Deviation: r is the share among all answers so far, not those of the last query alone.
    Deviation: texts that the auxiliary classifier takes for ones of no class stay candidates, behind others.

    Attributes:
        l2: penalty of the auxiliary classifier, on features of unit variance over the pool.
    """

    source: ClassVar[str] = "after Zong et al. 2024, arXiv 2402.15198"
    needs_features: ClassVar[bool] = True
    needs_labeled: ClassVar[bool] = True
    needs_rejected: ClassVar[bool] = True

    l2: Annotated[float, Within(gt=0, finite=True, advice="1 is usual.")] = 1.0

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return 1 - (w + r (1 - w) (p_1 - p_2)) of the mean over draws ``[n_pool]``, in [0, 1]."""
        doubt = uncertainty.margin(uncertainty.mean_log_probs(pool.log_probs))
        if not len(pool.rejected):
            return doubt
        known = -np.expm1(self.log_no_class(pool))
        r = len(pool.labeled) / (len(pool.labeled) + len(pool.rejected))
        return known * (1 - r * (1 - doubt))

    def log_no_class(self, pool: PoolView) -> Float64Array:
        """Return how likely each candidate is of no class, as the logarithm of a probability ``[n_pool]``."""
        assert pool.features is not None, "open_set_margin needs PoolView.features"
        assert pool.labeled_features is not None, "open_set_margin needs PoolView.labeled_features"
        assert pool.rejected_features is not None, "open_set_margin needs PoolView.rejected_features"
        mean, spread = _moments(pool.features)
        answered = np.concatenate([pool.labeled_features, pool.rejected_features], dtype=np.float64)
        labels = np.concatenate([pool.labeled.labels, np.full(len(pool.rejected), pool.n_classes)])
        w, b, _, _ = logistic_regression((answered - mean) / spread, labels, pool.n_classes + 1, l2=self.l2)
        w = w / spread
        logits = np.empty((len(pool), pool.n_classes + 1))
        for rows in row_blocks(len(pool), pool.features.shape[1]):
            logits[rows] = (pool.features[rows] - mean) @ w.T + b
        return log_softmax(logits)[:, -1]


def _moments(points: FloatArray) -> tuple[Float64Array, Float64Array]:
    """Return mean and standard deviation of every feature ``[n_features]``, 1 where it does not vary."""
    mean = points.mean(axis=0, dtype=np.float64)
    squares = np.zeros(points.shape[1])
    for rows in row_blocks(len(points), points.shape[1]):
        squares += np.square(points[rows] - mean).sum(axis=0)
    spread = np.sqrt(squares / len(points))
    return mean, np.where(spread > 1e-9 * np.abs(mean), spread, 1.0)
