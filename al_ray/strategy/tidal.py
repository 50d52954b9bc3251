"""TiDAL: uncertainty of the mean prediction over a fit's epochs, foretold for examples that were not watched."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np

from al_ray.core.distances import row_blocks, squared_norms
from al_ray.core.types import Float64Array, FloatArray, PoolView
from al_ray.core.uncertainty import entropy, log_softmax
from al_ray.registry import Within
from al_ray.strategy import QueryStrategy, strategies

# Of the mean loss: where the largest part of the gradient is below, L-BFGS is done.
GRADIENT_TOLERANCE = 1e-6
MAX_STEPS = 1000


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
        weights = side_head(np.asarray(pool.labeled_features, dtype=np.float64) / length, dynamics, self.l2)
        logits = np.empty((len(pool), pool.n_classes))
        for rows in row_blocks(len(pool), pool.features.shape[1]):
            logits[rows] = pool.features[rows] @ (weights[:, :-1].T / length) + weights[:, -1]
        return log_softmax(logits)


def side_head(features: Float64Array, targets: Float64Array, l2: float) -> Float64Array:
    """Fit multinomial logistic regression to soft labels: sum_i KL(targets_i || p_i) + l2 / 2 |W|^2.

    Strictly convex, since the intercepts are penalised too.

    Args:
        features: ``[n, n_features]``, at least one row.
        targets: probabilities ``[n, n_classes]``.
        l2: weight of the penalty, above 0.

    Returns:
        ``[n_classes, n_features + 1]``, the intercepts last.
    """
    from scipy.optimize import minimize

    x = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    shape, penalty = (targets.shape[1], x.shape[1]), l2 / len(x)

    def loss_and_gradient(flat: Float64Array) -> tuple[float, Float64Array]:
        w = flat.reshape(shape)
        log_probs = log_softmax(x @ w.T)
        loss = -float((targets * log_probs).sum()) / len(x) + 0.5 * penalty * float(flat @ flat)
        return loss, ((np.exp(log_probs) - targets).T @ x / len(x) + penalty * w).ravel()

    options = {"gtol": GRADIENT_TOLERANCE, "ftol": 0.0, "maxiter": MAX_STEPS, "maxls": 50}
    found = minimize(loss_and_gradient, np.zeros(np.prod(shape)), method="L-BFGS-B", jac=True, options=options)
    return np.asarray(found.x, dtype=np.float64).reshape(shape)
